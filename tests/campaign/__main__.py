"""All faults between operator and API server, from a seed, on the local cluster."""

import argparse
import asyncio
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

from kubernetes.aio.config import kube_config

from hack.cluster.layout import LAYOUT
from neuronmodel_operator.cluster import client
from tests.campaign.campaign import Campaign, Recording, Told, chosen, staged
from tests.campaign.faults_tried import Pattern, Tried
from tests.campaign.outages import try_outages
from tests.campaign.real_nodes import try_on_real_nodes
from tests.campaign.soak import Soak, soaking
from tests.campaign.stories import STORIES
from tests.campaign.table import Row, rows_of, sentences, table, write
from tests.cluster.conftest import serve_definition
from tests.cluster.operator.conftest import installed_operator_at_rest

AT_ONCE = 24
PATIENCE_SECONDS = 480.0
"""A change whose event never comes is found by the slow resync, after 300."""
SOAK_MINUTES = 30.0
PARTS = ("faults", "soak", "outages", "nodes")


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="make campaign", description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--part", action="append", choices=PARTS, help="only this; may be given again; else all")
    parser.add_argument("--at-once", type=int, default=AT_ONCE, help="how many stories are told at the same time")
    parser.add_argument("--count", type=int, help="how many faults are tried; all without it")
    parser.add_argument("--story", action="append", help="only with this story; may be given again")
    parser.add_argument("--pattern", action="append", type=lambda name: Pattern[name.upper()], help="only such faults")
    parser.add_argument("--where", default="", help="only where the write, event or read has this in its name")
    parser.add_argument("--soak-minutes", type=float, default=SOAK_MINUTES)
    parser.add_argument("--patience", type=float, default=PATIENCE_SECONDS, help="seconds until something is missing")
    parser.add_argument("--write", action="store_true", help="write the table into docs/reliability.md")
    parser.add_argument(
        "--logs", type=Path, help="a folder for the operators' logs, and for all versions of objects of what fell"
    )
    asked = parser.parse_args(arguments)
    kube_config.KUBE_CONFIG_DEFAULT_LOCATION = str(LAYOUT.kubeconfig)
    if not LAYOUT.kubeconfig.exists():
        print("there is no local cluster: `make up` makes one", file=sys.stderr)
        return 1
    serve_definition(LAYOUT.kubeconfig)
    with tempfile.TemporaryDirectory(prefix="campaign-") as folder:
        logs = asked.logs or Path(folder)
        logs.mkdir(parents=True, exist_ok=True)
        return asyncio.run(Command(asked, logs).run())


@dataclass
class Command:
    asked: argparse.Namespace
    folder: Path
    began: float = field(default_factory=time.monotonic)
    was_ended: bool = False
    campaign: Campaign | None = None
    soak: Soak | None = None
    """What was begun; it has what was found, also where the rest fails."""

    async def run(self) -> int:
        this = asyncio.current_task()
        assert this is not None
        # What was begun is ended, and what was found is said, whoever ends this.
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, this.cancel)
        rows: list[Row] = []
        failure: Exception | None = None
        try:
            if set(self.asked.part or PARTS) != {"nodes"}:
                await self._tell()
            if self._has("nodes") and not self.was_ended:
                rows = await try_on_real_nodes(self.say)
        except asyncio.CancelledError:
            self._end()
        except Exception as error:  # what an hour has found is not lost for it
            failure = error
            self.say(f"ended early: {error}")
        code = self._report(self.campaign.told if self.campaign else [], rows, self.soak)
        return 1 if failure else code

    async def _tell(self) -> None:
        """All but the tests with real kubelets, which have an installed operator of their own."""
        async with AsyncExitStack() as stack:
            stack.enter_context(installed_operator_at_rest())
            api = await stack.enter_async_context(client.connect(lambda verb, kind, status: None))
            stage = await stack.enter_async_context(staged(api, LAYOUT.kubeconfig, self.folder, self.asked.patience))
            campaign = self.campaign = Campaign(stage, self.asked.at_once, self.say)
            soak: Soak | None = None
            if self._has("soak"):
                minutes = self.asked.soak_minutes
                soak = self.soak = await stack.enter_async_context(
                    soaking(stage, minutes * 60, self.asked.seed, self.say)
                )
            try:
                recordings = await self._record(campaign)
                tries = self._chosen(recordings) if self._has("faults") else []
                await asyncio.gather(campaign.run(tries), soak.run() if soak else asyncio.sleep(0))
                if self._has("outages"):
                    await try_outages(campaign, recordings, self.asked.seed)
            except asyncio.CancelledError:
                self._end()

    def _end(self) -> None:
        """Called where the signal has cancelled this task, which goes on to say what was found."""
        this = asyncio.current_task()
        assert this is not None
        self.say("ended early, by a signal")
        self.was_ended = True
        this.uncancel()

    def say(self, text: str) -> None:
        print(f"{self._minutes:5.1f} min  {text}", flush=True)

    @property
    def _minutes(self) -> float:
        return (time.monotonic() - self.began) / 60

    def _has(self, part: str) -> bool:
        return part in (self.asked.part or PARTS)

    async def _record(self, campaign: Campaign) -> list[Recording]:
        stories = [story for story in STORIES if not self.asked.story or story.name in self.asked.story]
        recordings = await asyncio.gather(*(campaign.record(story) for story in stories))
        for recording in recordings:
            self.say(f"{recording.story.described}: {len(recording.writes)} writes, {len(recording.events)} events")
        return recordings

    def _chosen(self, recordings: Sequence[Recording]) -> list[tuple[Recording, Tried]]:
        asked = self.asked
        tries = [
            (recording, tried)
            for recording, tried in chosen(recordings, asked.seed)
            if (not asked.pattern or tried.pattern in asked.pattern) and asked.where in tried.where
        ][: asked.count]
        self.say(f"{len(tries)} faults, {asked.at_once} stories at a time")
        return tries

    def _report(self, told: Sequence[Told], rows: Sequence[Row], soak: Soak | None) -> int:
        rows = [*rows_of(told), *rows]
        lines = [*table(rows), "", *sentences(told, soak, self.asked.seed, self._minutes)]
        print("", *lines, sep="\n")
        for each in told:
            if each.problems:
                print(f"\nFELL {each}", *each.problems, sep="\n  ")
        problems = soak.problems if soak else []
        print(*(f"FELL in the soak: {problem}" for problem in problems), sep="\n")
        if self.asked.write:
            write(lines)
        return 1 if problems or any(row.num_fell for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
