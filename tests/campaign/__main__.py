"""`make campaign`: all faults, from a seed, on the local cluster; ends with the table of docs/reliability.md."""

import argparse
import asyncio
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from kubernetes.aio.config import kube_config

from hack.cluster.layout import LAYOUT
from neuronmodel_operator.cluster import client
from tests.campaign.campaign import Campaign, Recording, Told, chosen, staged
from tests.campaign.faults_tried import Pattern
from tests.campaign.stories import STORIES

AT_ONCE = 24


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="make campaign", description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--count", type=int, help="how many faults are tried; all without it")
    parser.add_argument("--at-once", type=int, default=AT_ONCE)
    parser.add_argument("--story", action="append", help="only these")
    parser.add_argument("--pattern", action="append", help="only faults of these kinds")
    parser.add_argument("--where", help="only faults whose place has this in it")
    parser.add_argument("--patience", type=float, default=300.0, help="seconds for what is asked for, and for its end")
    parser.add_argument("--keep", action="store_true", help="keep the operators' logs")
    asked = parser.parse_args(arguments)
    kube_config.KUBE_CONFIG_DEFAULT_LOCATION = os.environ.get("KUBECONFIG") or str(LAYOUT.kubeconfig)
    with tempfile.TemporaryDirectory(prefix="campaign-", delete=not asked.keep) if sys.version_info >= (3, 12) else _folder(asked.keep) as folder:
        told = asyncio.run(_run(asked, Path(folder)))
    return 1 if any(each.problems for each in told) else 0


def _folder(keep):
    import contextlib

    @contextlib.contextmanager
    def made():
        if keep:
            yield tempfile.mkdtemp(prefix="campaign-")
        else:
            with tempfile.TemporaryDirectory(prefix="campaign-") as folder:
                yield folder

    return made()


async def _run(asked: argparse.Namespace, folder: Path) -> list[Told]:
    began = time.monotonic()
    kubeconfig = Path(kube_config.KUBE_CONFIG_DEFAULT_LOCATION)
    print(folder)
    async with client.connect(lambda verb, kind, status: None) as api, staged(api, kubeconfig, folder, asked.patience) as stage:
        campaign = Campaign(stage, asked.at_once, lambda text: print(f"{time.monotonic() - began:6.0f} s  {text}", flush=True))
        stories = [story for story in STORIES if not asked.story or story.name in asked.story]
        recordings: list[Recording] = await asyncio.gather(*(campaign.record(story) for story in stories))
        for recording in recordings:
            campaign.say(f"{recording.story.name}: {len(recording.writes)} writes, {len(recording.events)} events, {recording.seconds:.1f} s")
        tries = [
            (recording, tried)
            for recording, tried in chosen(recordings, asked.seed)
            if (not asked.pattern or tried.pattern.name.lower() in asked.pattern)
            and (not asked.where or asked.where in tried.where)
        ][: asked.count]
        campaign.say(f"{len(tries)} faults to be tried")
        told = await campaign.run(recordings, tries)
    for pattern in Pattern:
        of_it = [each for each in told if each.tried.pattern == pattern]
        print(f"{pattern}: {len(of_it)} tried, {sum(not e.was_reached for e in of_it)} not reached, {sum(bool(e.problems) for e in of_it)} fell")
    print(f"{time.monotonic() - began:.0f} s")
    return told


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
