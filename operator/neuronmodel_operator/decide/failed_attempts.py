"""Why attempts of `prepare` failed: from their pods, and from the status once these are gone.

The latest attempt is reported by ArtifactsReady (by SourceResolved if the source was the cause). When another attempt
follows, its Job and pod are deleted, and a note of the start keeps the sentence.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final, Self

from neuronmodel_api.conditions import ConditionType
from neuronmodel_api.reasons import Reason
from neuronmodel_api.report import MAX_NOTE
from neuronmodel_api.status import StartNote
from neuronmodel_operator.decide.asked import Asked
from neuronmodel_operator.decide.failures import Problem, crash_problem, stop_problem
from neuronmodel_operator.decide.situation import Situation
from neuronmodel_operator.manifests.worker_config import source_display
from neuronmodel_operator.state.objects import JobState, JobView
from neuronmodel_operator.wording import shortened

KEPT_NOTES: Final = 3
"""The most notes on attempts that a start keeps, so that there is room for its worker's notes."""

_ATTEMPT_FAILED: Final = re.compile(r"(?P<message>.*?) ?Attempt (?P<attempt>\d+) failed; prepare runs again", re.DOTALL)
_COMMAND: Final = re.compile(r" See `kubectl logs [^`]*`\.$")
_POD: Final = re.compile(r"^The worker in \S+ ")
_ATTEMPTS_NOTE: Final = re.compile(r"attempts? (?P<first>\d+)(?:-(?P<last>\d+))?: (?P<message>.*)", re.DOTALL)


def again(attempt: int, when: str) -> str:
    """Returns the sentence that a condition adds to the reason of the latest failure."""
    return f"Attempt {attempt} failed; prepare runs again{when}."


def attempt_problem(s: Situation, job: JobView) -> Problem:
    """Returns why an attempt failed."""
    reported = _reported_attempt(s.asked)
    live = next((found for pod in reversed(s.children.pods_of(job)) if (found := crash_problem(s, pod))), None)
    if live:
        return replace(live, reason=Reason.PREPARE_FAILED) if live.reason == Reason.WORKER_CRASHED else live
    if reported and reported[0] == job.attempt:
        return reported[1]
    failed = job.true_condition("Failed") or {}
    text = failed.get("message", "it left no message").removesuffix(".")
    return Problem(Reason.PREPARE_FAILED, shortened(f"The Job {job.name} failed: {text}."))


def stopped_attempt(s: Situation, job: JobView) -> Problem | None:
    """Returns why the pod of an attempt was stopped whose Job has not failed yet, or None.

    A deleted pod may be gone before its Job has failed. Until then the condition's own sentence counts.
    """
    if pods := s.children.pods_of(job):
        return stop_problem(s, pods[-1])
    reported = _reported_attempt(s.asked)
    return reported[1] if reported and reported[0] == job.attempt else None


def _reported_attempt(asked: Asked) -> tuple[int, Problem] | None:
    """Returns the number and problem of the attempt that the conditions reported when they were last written. A command
    for its pod is removed, as it is useless without the pod."""
    condition = asked.status.condition(ConditionType.ARTIFACTS_READY)
    found = _ATTEMPT_FAILED.match(condition.message) if condition else None
    if condition is None or found is None:
        return None
    message = found["message"]
    if condition.reason == Reason.WAITING_FOR_SOURCE:
        condition = asked.status.condition(ConditionType.SOURCE_RESOLVED) or condition
        message = condition.message.removeprefix(f"{source_display(asked.spec.model.source)}: ")
    is_passing = condition.status == "Unknown"
    return int(found["attempt"]), Problem(condition.reason, _COMMAND.sub("", message), passes=is_passing)


# Notes of a start.


@dataclass(frozen=True)
class _AttemptsNote:
    """A note on consecutive attempts that failed for the same reason."""

    reason: str
    message: str
    first: int
    last: int

    @classmethod
    def read(cls, text: str) -> Self | None:
        """Returns None for a note about something else."""
        note = StartNote.read(text)
        found = _ATTEMPTS_NOTE.fullmatch(note.message)
        if found is None:
            return None
        return cls(note.reason, found["message"], int(found["first"]), int(found["last"] or found["first"]))

    def __str__(self) -> str:
        which = f"attempt {self.first}" if self.first == self.last else f"attempts {self.first}-{self.last}"
        return str(StartNote(self.reason, shortened(f"{which}: {self.message}", MAX_NOTE)))


def is_attempts_note(note: str) -> bool:
    return _AttemptsNote.read(note) is not None


def attempt_notes(s: Situation, kept: Iterable[str]) -> tuple[str, ...]:
    """Returns notes on the latest superseded attempts, including those noted before."""
    former = [note for text in kept if (note := _AttemptsNote.read(text))]
    noted = max((note.last for note in former), default=0)
    fresh = [_note(attempt, problem) for attempt, problem in _superseded_attempts(s) if attempt > noted]
    return tuple(str(note) for note in _joined([*former, *fresh]))[-KEPT_NOTES:]


def _superseded_attempts(s: Situation) -> list[tuple[int, Problem]]:
    reported = _reported_attempt(s.asked)
    found = {reported[0]: reported[1]} if reported else {}
    found |= {job.attempt: attempt_problem(s, job) for job in s.artifacts.own_jobs if job.state is JobState.FAILED}
    return sorted((attempt, problem) for attempt, problem in found.items() if attempt < s.artifacts.latest_attempt)


def _note(attempt: int, problem: Problem) -> _AttemptsNote:
    """Returns a note without the pod's name, which is useless by then and differs each time."""
    return _AttemptsNote(problem.reason, _POD.sub("", _COMMAND.sub("", problem.message)), attempt, attempt)


def _joined(notes: Iterable[_AttemptsNote]) -> list[_AttemptsNote]:
    joined: list[_AttemptsNote] = []
    for note in notes:
        last = joined[-1] if joined else None
        if last and last.last + 1 == note.first and (last.reason, last.message) == (note.reason, note.message):
            joined[-1] = replace(last, last=note.last)
        else:
            joined.append(note)
    return joined
