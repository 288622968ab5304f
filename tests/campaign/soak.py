"""Many NeuronModels under one operator, with random acts and random faults for a long time: what must hold at every
moment does, all of them arrive where they were asked to, and the operator does not grow."""

import asyncio
import os
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from time import monotonic
from typing import Final

from neuronmodel_api import names
from neuronmodel_operator.cluster import client
from neuronmodel_operator.cluster.client import ApiError, Kind
from tests.campaign.history import Version
from tests.campaign.invariants import Invariants, most_a_minute, rates
from tests.campaign.trial import MODEL, Stage, Trial, behind_one_operator
from tests.cluster.operator.conftest import delete
from tests.cluster.operator.process import is_healthy, until
from tests.faults.faults import CutAfter, CutBefore, CutInside, Delay, Fault, RandomFaults, Refuse
from tests.faults.requests import WRITES, Match

ORDER_SECONDS: Final = 5.0
"""Versions that are older come in the order in which they were written."""
SAMPLE_SECONDS: Final = 5.0
PROBABILITY: Final = 0.02
PAUSE_SECONDS: Final = (2.0, 80.0)
"""Between two acts on a NeuronModel."""
SERVING_SECONDS: Final = 20.0
"""How long it is waited for what the last act asked for, now and then."""
MODELS: Final = 20
FAULTS: Final[Sequence[Fault]] = (
    *(Refuse(429, "TooManyRequests", retry_after=1), Refuse(500), Refuse(503, "ServiceUnavailable")),
    *(Refuse(409, "Conflict"), Refuse(403, "Forbidden"), Delay(1.0), CutBefore(), CutAfter(), CutInside()),
)
CHILDREN: Final = (client.DEPLOYMENT, client.SERVICE, client.JOB, client.POD)
GROWTH: Final = 1.15
"""Of the last third over the second, beyond which memory counts as growing; of sockets and tasks 1.3."""


@dataclass(frozen=True)
class Sample:
    """Of the operator's process."""

    megabytes: float
    sockets: int
    tasks: int

    def __str__(self) -> str:
        return f"{self.megabytes:.0f} MB, {self.sockets} sockets, {self.tasks} tasks"


@dataclass
class Soak:
    trials: Sequence[Trial]
    seconds: float
    seed: int
    say: Callable[[str], None]
    samples: list[Sample] = field(default_factory=list)
    acts: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)
    most_events: int = 0
    most_statuses: int = 0

    async def run(self) -> None:
        proxy = self.trials[0].proxy
        operator = self.trials[0].operator
        await until(lambda: is_healthy(operator), what="healthy")  # it is asked for its tasks by a signal
        match = Match(frozenset({"get", "list", *WRITES}))
        proxy.faults = RandomFaults(seed=self.seed, probability=PROBABILITY, choices=FAULTS, match=match)
        looking = asyncio.create_task(self._look())
        await asyncio.gather(*(self._act(number, trial) for number, trial in enumerate(self.trials)))
        proxy.faults.clear()
        proxy.faults = RandomFaults()
        for trial in self.trials:
            try:
                await self._arrive(trial)
            except AssertionError as error:
                self.problems.append(f"{trial.namespace}: {error}")
        looking.cancel()
        await asyncio.gather(looking, return_exceptions=True)
        self._judge()

    def _judge(self) -> None:
        for trial in self.trials:
            self.problems += [f"{trial.namespace}: {each}" for each in rates(trial)]
            times = [trial.proxy.write_times(what, trial.namespace) for what in ("events", "neuronmodels/status")]
            self.most_events = max(self.most_events, most_a_minute(times[0]))
            self.most_statuses = max(self.most_statuses, most_a_minute(times[1]))
        self.problems += growth(self.samples)

    async def _arrive(self, trial: Trial) -> None:
        if await trial.api.get(client.MODEL, trial.namespace, MODEL) is None:
            await trial.make()
        await trial.change({"serving": {"replicas": 1}})
        await trial.until_serving()

    async def _act(self, number: int, trial: Trial) -> None:
        chance = random.Random(f"{self.seed} {number}")
        await trial.make()
        end = monotonic() + self.seconds
        while monotonic() < end:
            name = chance.choice(list(ACTS))
            self.acts[name] += 1
            try:
                await ACTS[name](trial, chance)
            except ApiError:  # what it acts on is just not there
                pass
            except AssertionError as error:
                self.problems.append(f"{trial.namespace}: {name}: {error}")
            await asyncio.sleep(chance.uniform(*PAUSE_SECONDS))
            if chance.random() < 0.2:
                with suppress(TimeoutError):
                    async with asyncio.timeout(SERVING_SECONDS):
                        await trial.until_serving()

    async def _look(self) -> None:
        invariants = {trial.namespace: Invariants(has_deletions=True) for trial in self.trials}
        while True:
            for trial in self.trials:
                for problem in invariants[trial.namespace].feed(_in_order(trial)):
                    self.problems.append(f"{trial.namespace}: {problem}")
                    self.say(self.problems[-1])
            if not self.trials[0].operator.is_alive:
                self.problems.append("the operator has ended")
                return
            self.samples.append(_sample(self.trials[0]))
            if len(self.samples) % 12 == 0:
                last = self.samples[-1]
                self.say(f"{sum(self.acts.values())} acts; {last}")
            await asyncio.sleep(SAMPLE_SECONDS)


def growth(samples: Sequence[Sample]) -> list[str]:
    """A sentence for each that was more in the last third than in the second."""
    third = len(samples) // 3
    if third == 0:
        return ["the soak was too short for a sample"]
    found = []
    for name, allowed in (("megabytes", GROWTH), ("sockets", 1.3), ("tasks", 1.3)):
        second, last = (
            median(getattr(each, name) for each in part) for part in (samples[third : 2 * third], samples[2 * third :])
        )
        if last > second * allowed:
            found.append(f"{name} of the operator grew from {second:.0f} to {last:.0f}")
    return found


def _in_order(trial: Trial) -> list[Version]:
    """Takes what was seen long enough ago out of the chronicle."""
    versions, now = trial.chronicle.versions, monotonic()
    due = [version for version in versions if now - version.at > ORDER_SECONDS]
    trial.chronicle.versions = [version for version in versions if now - version.at <= ORDER_SECONDS]
    return sorted(due, key=lambda version: version.number)


def _sample(trial: Trial) -> Sample:
    proc = Path("/proc", str(trial.operator.pid))
    pages = int((proc / "statm").read_text().split()[1])
    sockets = 0
    for descriptor in (proc / "fd").iterdir():
        with suppress(OSError):
            sockets += str(descriptor.readlink()).startswith("socket:")
    counts = trial.operator.count_tasks()
    return Sample(pages * os.sysconf("SC_PAGE_SIZE") / 1e6, sockets, counts[-1] if counts else 0)


# Acts.


async def _change_degree(trial: Trial, chance: random.Random) -> None:
    await _patch(trial, {"spec": {"parallelism": {"tensorParallelDegree": chance.choice((1, 2, 4, 8))}}})


async def _scale(trial: Trial, chance: random.Random) -> None:
    await _patch(trial, {"spec": {"serving": {"replicas": chance.choice((0, 1, 1, 2))}}})


async def _restart(trial: Trial, chance: random.Random) -> None:
    await _patch(trial, {"metadata": {"annotations": {names.ANNOTATION_RESTART: str(chance.random())}}})


async def _patch(trial: Trial, patch: dict[str, object]) -> None:
    await trial.api.merge(client.MODEL, trial.namespace, MODEL, patch)


async def _crash(trial: Trial, chance: random.Random) -> None:
    trial.stage.workers.crash(trial.namespace)


async def _delete_child(trial: Trial, chance: random.Random) -> None:
    kind: Kind = chance.choice(CHILDREN)
    if found := await trial.api.list(kind, trial.namespace):
        await delete(trial.api, kind, chance.choice(found))


async def _delete_and_make_again(trial: Trial, chance: random.Random) -> None:
    """At once, so that what the former one had is still being removed."""
    await _patch(trial, {"spec": {"artifacts": {"retention": chance.choice(("Retain", "Delete"))}}})
    await trial.delete()
    await trial.until_gone()
    await trial.make()


ACTS: Final[dict[str, Callable[[Trial, random.Random], Awaitable[None]]]] = {
    "another degree": _change_degree,
    "another number of replicas": _scale,
    "a restart": _restart,
    "a crash of the workers": _crash,
    "a child deleted": _delete_child,
    "deleted and made again": _delete_and_make_again,
}


@asynccontextmanager
async def soaking(
    stage: Stage, seconds: float, seed: int, say: Callable[[str], None], num_models: int = MODELS
) -> AsyncIterator[Soak]:
    async with AsyncExitStack() as stack:
        names_of_trials = [f"soak-{number}" for number in range(num_models)]
        trials = await stack.enter_async_context(behind_one_operator(stage, names_of_trials))
        yield Soak(trials, seconds, seed, say)
