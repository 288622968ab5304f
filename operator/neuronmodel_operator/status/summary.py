"""`status.summary`: what is wrong or what goes on, and what to do, in one text. `kubectl describe` sorts fields by
their names, and this one stands behind the starts, next to the workers and the Events."""

from typing import Final

from neuronmodel_api.reasons import Reason
from neuronmodel_api.status import Condition, NeuronModelStatus
from neuronmodel_operator.wording import shortened

MAX_SUMMARY: Final = 1024
_WORDS: Final = {"True": "Serves", "False": "Does not serve"}


def with_summary(status: NeuronModelStatus, ready: Condition) -> NeuronModelStatus:
    text = summary(ready.status, ready.reason, ready.message, status.progress, status.last_load)
    return status.model_copy(update={"summary": text})


def summary(status: str, reason: str, message: str, progress: str | None, last_load: str | None) -> str:
    """`status`, `reason` and `message` are those of the condition Ready."""
    is_ready = status == "True"
    parts = [f"{_WORDS.get(status, 'Under way')} ({reason}): {message}"]
    if progress:
        parts.append(f"At work: {progress}.")
    if is_ready and last_load:
        parts.append(f"The latest start took {last_load}.")
    known = Reason.known(reason)
    if known and known.advice and (status == "False" or not (is_ready or progress)):
        parts.append(f"What to do: {known.advice}")
    return shortened(" ".join(parts), MAX_SUMMARY)
