"""Why attempts of `prepare` failed: from their pods, and once these are gone from what the status says of them.

While an attempt is the latest, ArtifactsReady tells of it (SourceResolved, where it was the source's fault). When
another follows, its Job and pod go, and a note of the start keeps the sentence.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final, Self

from neuronmodel_api.reasons import Reason
from neuronmodel_api.report import MAX_NOTE
from neuronmodel_api.status import ConditionType, StartNote
from neuronmodel_operator.decide.asked import Asked
from neuronmodel_operator.decide.failures import Trouble, crash_trouble
from neuronmodel_operator.decide.situation import Situation
from neuronmodel_operator.manifests.worker_config import source_display
from neuronmodel_operator.state.objects import JobState, JobView
from neuronmodel_operator.wording import shortened

KEPT_NOTES: Final = 3
"""Of one start: what its worker notes has room beside them."""

_TOLD: Final = re.compile(r"(?P<message>.*?) ?Attempt (?P<attempt>\d+) failed; prepare runs again", re.DOTALL)
_COMMAND: Final = re.compile(r" See `kubectl logs [^`]*`\.$")
_POD: Final = re.compile(r"^The worker in \S+ ")
_OF_ATTEMPTS: Final = re.compile(r"attempts? (?P<first>\d+)(?:-(?P<last>\d+))?: (?P<message>.*)", re.DOTALL)


def again(attempt: int, when: str) -> str:
    """What a condition says of the latest attempt beside why it failed."""
    return f"Attempt {attempt} failed; prepare runs again{when}."


def attempt_trouble(s: Situation, job: JobView) -> Trouble:
    """Why an attempt failed."""
    told = _told(s.asked)
    live = next((found for pod in reversed(s.children.pods_of(job)) if (found := crash_trouble(s, pod))), None)
    if live:
        return replace(live, reason=Reason.PREPARE_FAILED) if live.reason == Reason.WORKER_CRASHED else live
    if told and told[0] == job.attempt:
        return told[1]
    failed = job.true_condition("Failed") or {}
    said = failed.get("message", "it left no message").removesuffix(".")
    return Trouble(Reason.PREPARE_FAILED, shortened(f"The Job {job.name} failed: {said}."))


def _told(asked: Asked) -> tuple[int, Trouble] | None:
    """The attempt that the conditions tell of, as they were last written; a command for its pod is left out, for it is
    of no use without the pod."""
    condition = asked.status.condition(ConditionType.ARTIFACTS_READY)
    found = _TOLD.match(condition.message) if condition else None
    if condition is None or found is None:
        return None
    message = found["message"]
    if condition.reason == Reason.WAITING_FOR_SOURCE:
        condition = asked.status.condition(ConditionType.SOURCE_RESOLVED) or condition
        message = condition.message.removeprefix(f"{source_display(asked.spec.model.source)}: ")
    is_passing = condition.status == "Unknown"
    return int(found["attempt"]), Trouble(condition.reason, _COMMAND.sub("", message), passes=is_passing)


# Notes of a start.


@dataclass(frozen=True)
class _AttemptsNote:
    """On attempts in a row that failed alike."""

    reason: str
    message: str
    first: int
    last: int

    @classmethod
    def read(cls, text: str) -> Self | None:
        """None: a note of something else."""
        note = StartNote.read(text)
        found = _OF_ATTEMPTS.fullmatch(note.message)
        if found is None:
            return None
        return cls(note.reason, found["message"], int(found["first"]), int(found["last"] or found["first"]))

    def __str__(self) -> str:
        which = f"attempt {self.first}" if self.first == self.last else f"attempts {self.first}-{self.last}"
        return str(StartNote(self.reason, shortened(f"{which}: {self.message}", MAX_NOTE)))


def is_of_attempts(note: str) -> bool:
    return _AttemptsNote.read(note) is not None


def attempt_notes(s: Situation, kept: Iterable[str]) -> tuple[str, ...]:
    """Of attempts that others followed, the latest few, with those that were noted before."""
    former = [note for text in kept if (note := _AttemptsNote.read(text))]
    noted = max((note.last for note in former), default=0)
    fresh = [_note(attempt, trouble) for attempt, trouble in _followed(s) if attempt > noted]
    return tuple(str(note) for note in _joined([*former, *fresh]))[-KEPT_NOTES:]


def _followed(s: Situation) -> list[tuple[int, Trouble]]:
    told = _told(s.asked)
    found = {told[0]: told[1]} if told else {}
    found |= {job.attempt: attempt_trouble(s, job) for job in s.artifacts.own_jobs if job.state is JobState.FAILED}
    return sorted((attempt, trouble) for attempt, trouble in found.items() if attempt < s.artifacts.latest_attempt)


def _note(attempt: int, trouble: Trouble) -> _AttemptsNote:
    """Without its pod, which is of no use any more and has another name each time."""
    return _AttemptsNote(trouble.reason, _POD.sub("", _COMMAND.sub("", trouble.message)), attempt, attempt)


def _joined(notes: Iterable[_AttemptsNote]) -> list[_AttemptsNote]:
    joined: list[_AttemptsNote] = []
    for note in notes:
        last = joined[-1] if joined else None
        if last and last.last + 1 == note.first and (last.reason, last.message) == (note.reason, note.message):
            joined[-1] = replace(last, last=note.last)
        else:
            joined.append(note)
    return joined
