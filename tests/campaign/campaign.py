"""Tells each story without a fault, and again with every fault that this recording gives rise to."""

import asyncio
import itertools
import random
import secrets
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Final

import aiohttp

from neuronmodel_operator.cluster import client
from neuronmodel_operator.cluster.client import Api
from tests.campaign.end_state import EndState, differences, end_state, without_reports_that_are_lost
from tests.campaign.faults_tried import Tried, tries_of
from tests.campaign.history import following
from tests.campaign.invariants import violations
from tests.campaign.stories import Story
from tests.campaign.trial import Stage, Trial, beginning, insist
from tests.campaign.workers import playing
from tests.cluster.operator.conftest import delete, made_namespace
from tests.cluster.operator.process import grant_everywhere, make_account_without_rights
from tests.cluster.operator.storage import STORAGE_CLASS, storage_class
from tests.faults.requests import WriteId
from tests.faults.watch_events import EventId
from tests.waiting import PATIENCE_SECONDS

QUIET_SECONDS: Final = 6.0
"""After which a recording is over: longer than the operator waits before it looks again after a write."""
LOOK_SECONDS: Final = 0.5

Say = Callable[[str], None]


@dataclass(frozen=True)
class Recording:
    """A story that was told without a fault."""

    story: Story
    writes: tuple[WriteId, ...]
    events: tuple[EventId, ...]
    end: EndState


@dataclass(frozen=True)
class Told:
    """A story that was told with a fault."""

    story: Story
    tried: Tried
    was_reached: bool
    """Whether the fault came about."""
    problems: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.story.name}: {self.tried}"


@dataclass
class Campaign:
    stage: Stage
    at_once: int
    say: Say
    told: list[Told] = field(default_factory=list)
    numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))
    """Of namespaces."""

    async def record(self, story: Story) -> Recording:
        async with beginning(self.stage, self._name(story)) as trial:
            await _prepare(trial, story)
            trial.proxy.begin()
            await story.act(trial)
            await trial.until_quiet(QUIET_SECONDS)
            end = await end_state(trial.api, trial.namespace)
            found = violations(trial)
            assert not found, f"{story.name} without a fault: {found}"
            return Recording(story, tuple(trial.proxy.numbered.ids), tuple(trial.proxy.events.ids), end)

    async def tell(self, recording: Recording, tried: Tried) -> Told:
        story = recording.story
        async with beginning(self.stage, self._name(story), tried.clock_offset) as trial:
            problems: list[str] = []
            try:
                await _prepare(trial, story)
                trial.proxy.begin()
                tried.arm(trial)
                if tried.begin:
                    await tried.begin()
                if tried.ends_namespace:
                    return Told(story, tried, await _is_ended(trial, story), ())
                await story.act(trial)
                problems += await _differences(trial, recording.end, loses_reports=tried.loses_reports)
            except AssertionError as error:
                problems.append(str(error))
            problems += violations(trial)
            if problems:
                trial.chronicle.keep(self.stage.folder / f"{trial.namespace}.jsonl")
            return Told(story, tried, tried.is_reached(trial), tuple(problems))

    async def run(self, tries: Sequence[tuple[Recording, Tried]]) -> list[Told]:
        """Returns `told`, which has what was told by then where this is cancelled."""
        slots, told, before = asyncio.Semaphore(self.at_once), self.told, len(self.told)

        async def one(recording: Recording, tried: Tried) -> None:
            async with slots:
                try:
                    found = await self.tell(recording, tried)
                except Exception as error:  # the campaign goes on, and says it
                    found = Told(recording.story, tried, True, (f"the trial failed: {error!r}",))
            told.append(found)
            if found.problems:
                self.say(f"FELL {found}: {'; '.join(found.problems[:6])}")
            if (tried_now := len(told) - before) % 20 == 0 or tried_now == len(tries):
                num_fell = sum(bool(each.problems) for each in told[before:])
                self.say(f"{tried_now} of {len(tries)} tried, {num_fell} fell")

        await asyncio.gather(*(one(*each) for each in tries))
        return told

    def _name(self, story: Story) -> str:
        return f"{story.name}-{next(self.numbers)}"


def chosen(recordings: Sequence[Recording], seed: int) -> list[tuple[Recording, Tried]]:
    """All that is to be tried, in an order of the seed."""
    tries = [
        (recording, tried)
        for recording in recordings
        for tried in tries_of(recording.story.name, recording.writes, recording.events, seed)
    ]
    random.Random(seed).shuffle(tries)
    return tries


def one_of_each(tries: Sequence[tuple[Recording, Tried]]) -> list[tuple[Recording, Tried]]:
    """The first of each fault, wherever it befalls."""
    return list({(tried.pattern, tried.what): (recording, tried) for recording, tried in reversed(tries)}.values())


async def _prepare(trial: Trial, story: Story) -> None:
    if story.set_up:
        await story.set_up(trial)
        await trial.until_quiet(QUIET_SECONDS)


async def _is_ended(trial: Trial, story: Story) -> bool:
    """Waits until the namespace is gone, with all that was in it. Returns whether it was deleted amid the story."""
    acting = asyncio.ensure_future(story.act(trial))
    gone = asyncio.create_task(trial.until_namespace_is_gone())
    try:
        await asyncio.wait({acting, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not trial.num_befallen:
            return False
        await gone
        return True
    finally:
        for task in (acting, gone):
            task.cancel()
        await asyncio.gather(acting, gone, return_exceptions=True)


async def _differences(trial: Trial, expected: EndState, *, loses_reports: bool) -> list[str]:
    """None as soon as there are none."""
    end = monotonic() + trial.stage.history.patience
    while True:
        state = await insist(lambda: end_state(trial.api, trial.namespace))
        found = differences(without_reports_that_are_lost(expected, state) if loses_reports else expected, state)
        if not found or monotonic() > end:
            return found
        await asyncio.sleep(LOOK_SECONDS)


@asynccontextmanager
async def staged(api: Api, kubeconfig: Path, folder: Path, patience: float = PATIENCE_SECONDS) -> AsyncIterator[Stage]:
    """`patience`: for how many seconds what is asked for is waited for, and for an end as it is without a fault."""
    home = f"campaign-{secrets.token_hex(3)}"
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(made_namespace(api, home))
        account = folder / "kubeconfig"
        await make_account_without_rights(api, home, kubeconfig, account)
        for kind, o in await grant_everywhere(api, home):
            stack.push_async_callback(delete, api, kind, o)
        made = await api.create(STORAGE_CLASS, None, storage_class(home))
        stack.push_async_callback(delete, api, STORAGE_CLASS, made)
        session, server = await admin_session(stack, api)
        history = await stack.enter_async_context(following(session, server, home, patience))
        workers = await stack.enter_async_context(playing(api, history))
        yield Stage(api, history, workers, home, account, folder, home)


async def admin_session(stack: AsyncExitStack, api: Api) -> tuple[aiohttp.ClientSession, str]:
    """A session for watches, which Api has none of."""
    await api.get(client.NAMESPACE, None, "default")  # its session is made with the first request
    context = api._dynamic.client.rest_client.pool_manager.connector._ssl  # the same certificates
    session = aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, ssl=context),
        timeout=aiohttp.ClientTimeout(total=None),
        read_bufsize=1 << 22,
    )
    return await stack.enter_async_context(session), api.server
