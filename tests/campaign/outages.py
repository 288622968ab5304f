"""Faults of the local cluster itself, while all stories are told at once: its control plane, and the network between
operator and workers."""

import asyncio
import json
import random
import signal
import urllib.request
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass, replace
from typing import Final

from hack.cluster import control_plane, processes
from hack.cluster.commands import run
from hack.cluster.layout import ETCD_URL, PLAYED_NETWORK
from neuronmodel_api import names
from tests.campaign.campaign import Campaign, Recording
from tests.campaign.faults_tried import Pattern, Tried

TELLINGS: Final = 2
"""Of each story, in each outage."""
SPREAD_SECONDS: Final = 4.0
"""Within which the stories begin; the outage begins in the middle."""
MEET_SECONDS: Final = 120.0
STOPPED_SECONDS, RUNNING_SECONDS = 0.8, 0.2
"""Of each second of a slow etcd."""


@dataclass(frozen=True)
class Outage:
    what: str
    """In the words of the table's rows."""
    during: Callable[[], AbstractAsyncContextManager[None]]
    """What is wrong inside of it."""
    seconds: float
    loses_reports: bool = False


@asynccontextmanager
async def _without(*stopped: str) -> AsyncIterator[None]:
    """Processes of the control plane are killed, and started again at the end."""
    for name in stopped:
        await asyncio.to_thread(processes.stop, name, how=signal.SIGKILL)
    try:
        yield
    finally:
        await asyncio.to_thread(control_plane.ensure_api_server)
        await asyncio.to_thread(control_plane.ensure_controllers)


@asynccontextmanager
async def _slow_etcd() -> AsyncIterator[None]:
    """It stands still for most of each second."""
    etcd = processes.recorded("etcd")
    assert etcd is not None

    async def halt() -> None:
        while True:
            for number, seconds in ((signal.SIGSTOP, STOPPED_SECONDS), (signal.SIGCONT, RUNNING_SECONDS)):
                etcd.send(number)
                await asyncio.sleep(seconds)

    halting = asyncio.create_task(halt())
    try:
        yield
    finally:
        halting.cancel()
        await asyncio.gather(halting, return_exceptions=True)
        etcd.send(signal.SIGCONT)


@asynccontextmanager
async def _full_etcd() -> AsyncIterator[None]:
    """It takes no more writes, as when its quota is used up."""
    await asyncio.to_thread(_alarm, "ACTIVATE")
    try:
        yield
    finally:
        await asyncio.to_thread(_alarm, "DEACTIVATE")


def _alarm(action: str) -> None:
    members = _ask_etcd("cluster/member/list", {})["members"]
    for member in members:
        _ask_etcd("maintenance/alarm", {"action": action, "memberID": member["ID"], "alarm": "NOSPACE"})


def _ask_etcd(path: str, body: dict[str, object]) -> dict[str, list[dict[str, str]]]:
    """Through its own gateway from JSON to gRPC."""
    request = urllib.request.Request(f"{ETCD_URL}/v3/{path}", json.dumps(body).encode(), method="POST")
    with urllib.request.urlopen(request, timeout=30) as answer:
        found: dict[str, list[dict[str, str]]] = json.load(answer)
        return found


@asynccontextmanager
async def _parted() -> AsyncIterator[None]:
    """Nothing reaches the workers' reports, and nothing says so."""
    rule = ["OUTPUT", "-d", PLAYED_NETWORK, "-p", "tcp", "--dport", str(names.ADMIN_PORT), "-j", "DROP"]
    await asyncio.to_thread(run, ["iptables", "-w", "-I", *rule])
    try:
        yield
    finally:
        await asyncio.to_thread(run, ["iptables", "-w", "-D", *rule])


class Beginning:
    """Where those meet who begin together; a story that fails before is not waited for long."""

    def __init__(self, count: int) -> None:
        self._left = count
        self._all = asyncio.Event()

    async def arrive(self) -> None:
        self._left -= 1
        if self._left <= 0:
            self._all.set()
        with suppress(TimeoutError):
            async with asyncio.timeout(MEET_SECONDS):
                await self._all.wait()


API_SERVER: Final = "kube-apiserver"
OUTAGES: Final = (
    Outage("the API server is killed and started again", lambda: _without(API_SERVER), 0.0),
    Outage("the API server is gone for two minutes", lambda: _without(API_SERVER), 120.0),
    Outage("etcd and the API server are killed and started again", lambda: _without("etcd", API_SERVER), 0.0),
    Outage("etcd stands still for four fifths of each second, for a minute", _slow_etcd, 60.0),
    Outage("etcd has no space for half a minute", _full_etcd, 30.0),
    Outage("no controllers for a minute", lambda: _without("kube-controller-manager"), 60.0),
    Outage("operator and workers are parted for a minute", _parted, 60.0, loses_reports=True),
)


async def try_outages(campaign: Campaign, recordings: Sequence[Recording], seed: int) -> None:
    """One after the other, as all stories suffer from each."""
    for number, outage in enumerate(OUTAGES):
        campaign.say(outage.what)
        await _try(campaign, [*recordings] * TELLINGS, outage, random.Random(f"{seed} {number}"))


async def _try(campaign: Campaign, recordings: Sequence[Recording], outage: Outage, chance: random.Random) -> None:
    begun = Beginning(len(recordings) + 1)

    async def befall() -> None:
        await begun.arrive()
        await asyncio.sleep(SPREAD_SECONDS / 2)
        async with outage.during():
            await asyncio.sleep(outage.seconds)

    def told_after(delay: float) -> Tried:
        async def begin() -> None:
            await begun.arrive()
            await asyncio.sleep(delay)

        return Tried(
            Pattern.CLUSTER,
            outage.what,
            "while stories are told",
            loses_reports=outage.loses_reports,
            begin=begin,
        )

    tries = [(recording, told_after(chance.uniform(0.0, SPREAD_SECONDS))) for recording in recordings]
    # All of them at the same time, whatever else is tried side by side.
    together = replace(campaign, at_once=len(tries))
    await asyncio.gather(together.run(tries), befall())
