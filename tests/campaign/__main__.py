"""All faults between operator and API server, from a seed, on the local cluster."""

import argparse
import asyncio
import os
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from kubernetes.aio.config import kube_config

from hack.cluster.layout import LAYOUT
from neuronmodel_operator.cluster import client
from tests.campaign import table
from tests.campaign.campaign import Campaign, Say, Told, chosen, staged
from tests.campaign.faults_tried import Pattern
from tests.campaign.outages import try_outages
from tests.campaign.soak import Soak, soaking
from tests.campaign.stories import STORIES
from tests.campaign.trial import Stage
from tests.cluster.conftest import serve_definition

AT_ONCE = 24
PATIENCE_SECONDS = 300.0
SOAK_MINUTES = 30.0


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="make campaign", description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--at-once", type=int, default=AT_ONCE, help="how many stories are told at the same time")
    parser.add_argument("--count", type=int, help="how many faults are tried; all without it")
    parser.add_argument("--story", action="append", help="only with this story; may be given again")
    parser.add_argument("--pattern", action="append", type=lambda name: Pattern[name.upper()], help="only such faults")
    parser.add_argument("--where", default="", help="only where the write, event or read has this in its name")
    parser.add_argument("--no-outages", dest="outages", action="store_false", help="the cluster itself is left alone")
    parser.add_argument("--soak", type=float, default=SOAK_MINUTES, help="minutes; 0: none")
    parser.add_argument("--patience", type=float, default=PATIENCE_SECONDS, help="seconds until something is missing")
    parser.add_argument("--write", action="store_true", help="write the table into docs/reliability.md")
    parser.add_argument("--logs", type=Path, help="a folder in which the operators' logs are kept")
    asked = parser.parse_args(arguments)
    kube_config.KUBE_CONFIG_DEFAULT_LOCATION = os.environ.get("KUBECONFIG") or str(LAYOUT.kubeconfig)
    if not Path(kube_config.KUBE_CONFIG_DEFAULT_LOCATION).exists():
        print("there is no cluster: `make up` makes one, or set KUBECONFIG", file=sys.stderr)
        return 1
    serve_definition(Path(kube_config.KUBE_CONFIG_DEFAULT_LOCATION))
    with tempfile.TemporaryDirectory(prefix="campaign-") as folder:
        logs = asked.logs or Path(folder)
        logs.mkdir(parents=True, exist_ok=True)
        return asyncio.run(_run(asked, logs))


async def _run(asked: argparse.Namespace, folder: Path) -> int:
    began = time.monotonic()
    this = asyncio.current_task()
    assert this is not None
    # What was begun is ended, whoever ends this.
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, this.cancel)

    def say(text: str) -> None:
        print(f"{(time.monotonic() - began) / 60:5.1f} min  {text}", flush=True)

    kubeconfig = Path(kube_config.KUBE_CONFIG_DEFAULT_LOCATION)
    async with AsyncExitStack() as stack:
        api = await stack.enter_async_context(client.connect(lambda verb, kind, status: None))
        stage = await stack.enter_async_context(staged(api, kubeconfig, folder, asked.patience))
        campaign = Campaign(stage, asked.at_once, say)
        stories = [story for story in STORIES if not asked.story or story.name in asked.story]
        recordings = await asyncio.gather(*(campaign.record(story) for story in stories))
        for recording in recordings:
            say(f"{recording.story.described}: {len(recording.writes)} writes, {len(recording.events)} events")
        tries = [
            (recording, tried)
            for recording, tried in chosen(recordings, asked.seed)
            if (not asked.pattern or tried.pattern in asked.pattern) and asked.where in tried.where
        ][: asked.count]
        say(f"{len(tries)} faults, {asked.at_once} stories at a time")
        soak = await stack.enter_async_context(_soak(asked, stage, say))
        try:
            await asyncio.gather(campaign.run(tries), soak.run() if soak else asyncio.sleep(0))
            if (asked.outages and not asked.pattern) or Pattern.CLUSTER in (asked.pattern or ()):
                await try_outages(campaign, recordings, asked.seed)
        except asyncio.CancelledError:
            say("ended early, by a signal")
            this.uncancel()
    return _report(asked, campaign.told, soak, (time.monotonic() - began) / 60)


@asynccontextmanager
async def _soak(asked: argparse.Namespace, stage: Stage, say: Say) -> AsyncIterator[Soak | None]:
    if asked.soak <= 0:
        yield None
        return
    async with soaking(stage, asked.soak * 60, asked.seed, say) as soak:
        yield soak


def _report(asked: argparse.Namespace, told: Sequence[Told], soak: Soak | None, minutes: float) -> int:
    fallen = [each for each in told if each.problems]
    lines = [*table.rows(told), "", *table.sentences(told, soak, asked.seed, minutes)]
    print("", *lines, sep="\n")
    for each in fallen:
        print(f"\nFELL {each}", *each.problems, sep="\n  ")
    problems = soak.problems if soak else []
    print(*(f"FELL in the soak: {problem}" for problem in problems), sep="\n")
    if asked.write:
        table.write(lines)
    return 1 if fallen or problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
