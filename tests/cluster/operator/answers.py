"""Cases: a write of the operator is refused in one way, of a new or of a serving NeuronModel, and then let through."""

import asyncio
from dataclasses import dataclass
from time import monotonic
from typing import Final

from tests.cluster.operator.played import Sight
from tests.cluster.operator.process import until
from tests.cluster.operator.trials import SERVICE, WRITES, Stage, Trial, Write
from tests.cluster.operator.webhook import RANGE_IS_FULL, Answer, Writes

HOLD_SECONDS: Final = 7.5
"""How long a refusal lasts after it was shown: until the pauses between tries have grown to the longest."""
LONG_HOLD_SECONDS: Final = 70.0


@dataclass(frozen=True)
class Case:
    write: Write
    answer: Answer
    serves: bool
    """The NeuronModel does, and what is refused is asked for by a change; else it is a new one."""
    hold_seconds: float = HOLD_SECONDS

    @property
    def is_long(self) -> bool:
        return self.hold_seconds > HOLD_SECONDS

    @property
    def name(self) -> str:
        state = "serving" if self.serves else "new"
        return f"{self.write.name}-{self.answer.name}-{state}{'-long' if self.is_long else ''}"

    @property
    def reported_in(self) -> str:
        return self.write.reported_in or f"{self.write.condition}: `{self.answer.reason}`"


@dataclass(frozen=True)
class Times:
    """In seconds."""

    shown: float
    """From what was asked for to the report of the refusal."""
    recovered: float
    """From the end of the refusal until what was asked for is there and nothing is reported any more."""


CASES: Final = (
    *(Case(write, answer, False) for write in WRITES if write.is_of_new for answer in write.answers),
    *(Case(write, answer, True) for write in WRITES for answer in write.answers),
    Case(SERVICE, RANGE_IS_FULL, True, LONG_HOLD_SECONDS),
)


async def tried(case: Case, stage: Stage) -> Times:
    """Raises AssertionError."""
    write = case.write
    trial = Trial(stage, stage.namespace_of(write, case.answer), case.name, case.serves)
    async with stage.turns[trial.namespace] if write.has_own_namespace else stage.nobodys_turn:
        await _prepare(trial, case)
        trial.before = await trial.jobs()
        refusing = await stage.webhook.begin(f"{stage.home}-{case.name}", case.answer, _writes(case, trial))
        began = monotonic()
        await _ask(trial, case)
        shown_at = await _shown(trial, case, began)
        await asyncio.sleep(case.hold_seconds)  # how long it is refused is what is tried
        assert not await write.is_written(trial), "it was written all the same"
        ended = monotonic()
        await refusing.end()
        if write.ask_again:
            await write.ask_again(trial)
        await until(lambda: write.is_written(trial), poll=0.2, what="written")
        written = monotonic()
        if write.condition:
            over = await trial.until(lambda sight: not _is_named(case, sight), "over it")
            _check(case, trial, began, shown_at, ended)
            written = max(written, over.at)
        stage.played.held.discard(trial.name)
        await trial.until(lambda sight: sight.is_serving, "serving")
        await trial.remove()
        return Times(max(0.0, shown_at - began), written - ended)


async def _prepare(trial: Trial, case: Case) -> None:
    if case.serves:
        if case.write.make_room:
            await case.write.make_room(trial)
        await trial.begin_serving()
    elif case.write.set_up:
        await case.write.set_up(trial)


async def _ask(trial: Trial, case: Case) -> None:
    if case.serves or case.write.set_up:
        await case.write.ask(trial)
    else:
        await trial.make(retention=case.write.retention)


async def _shown(trial: Trial, case: Case, began: float) -> float:
    """When it was first reported."""
    write, answer = case.write, case.answer
    if write.is_reported:
        is_shown = write.is_reported
        await until(lambda: is_shown(trial, answer), poll=0.2, what="a report")
        return monotonic()
    await trial.until(lambda sight: _is_reported(case, sight), f"a report of {answer.described}")
    await until(lambda: trial.warnings(answer.reason), poll=0.2, what="an Event that reports it")
    return next(sight.at for sight in trial.sights if sight.asked_at >= began and _is_first_reported(case, sight))


def _writes(case: Case, trial: Trial) -> Writes:
    write = case.write
    selected = write.select(trial) if write.select else {"labels": trial.labels}
    return Writes(trial.stage.account, trial.namespace, *write.of, write.operations, **selected)


def _is_named(case: Case, sight: Sight) -> bool:
    """Whether the condition that the object stands in the way of says that it was not written."""
    condition = sight.condition(case.write.condition or "")
    return condition.get("status") == "False" and case.answer.words in condition.get("message", "")


def _is_reported(case: Case, sight: Sight) -> bool:
    ready, condition = sight.ready, sight.condition(case.write.condition or "")
    message = condition.get("message", "")
    return (
        _is_named(case, sight)
        and (condition["reason"], ready["reason"]) == (case.answer.reason, case.answer.reason)
        and " since 20" in message
        and "it is tried again every" in message
        and ready["status"] == "False"
        and sight.status["observedGeneration"] == sight.meta["generation"]
    )


def _is_first_reported(case: Case, sight: Sight) -> bool:
    """Before there is an answer, there is none yet."""
    return sight.ready.get("status") == "False" and sight.ready["reason"] in (case.answer.reason, "NoAnswer")


def _check(case: Case, trial: Trial, began: float, shown_at: float, ended: float) -> None:
    """Checks what was reported while it was refused."""
    shown = [sight.ready for sight in trial.sights if shown_at <= sight.at < ended]
    untrue = [ready for ready in shown if ready.get("status") != "False"]
    assert not untrue, f"Ready was {untrue[0]} while the write was refused"
    if case.write.changes_spec:
        early = [sight for sight in trial.sights if began < sight.asked_at and sight.at < ended and sight.is_serving]
        assert not early, f"it was Ready before what it asks for was written: {early[0].summary}"
