"""`make scale`: one operator with a hundred, a thousand and ten thousand NeuronModels, on the local cluster."""

import argparse
import asyncio
import json
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Any, Final

import aiohttp
from kubernetes.aio.config import kube_config

from hack.cluster import control_plane, processes
from hack.cluster.layout import LAYOUT
from neuronmodel_operator.cluster import client
from neuronmodel_operator.cluster.client import Api
from neuronmodel_operator.state.plan import ObjectRef
from tests.campaign.campaign import admin_session
from tests.cluster.conftest import serve_definition
from tests.cluster.operator.conftest import delete, model_manifest
from tests.cluster.operator.played import IMAGE, SCHEDULER
from tests.cluster.operator.process import OperatorProcess, grant_everywhere, make_account_without_rights, until
from tests.cluster.operator.storage import STORAGE_CLASS, storage_class
from tests.scale import clones
from tests.scale.clones import HOME, ORIGINAL, Clone
from tests.scale.figures import spread
from tests.scale.fleet import Fleet, Place, assembled
from tests.scale.measured import WRITES, Measured, difference, measure
from tests.scale.report import write

SIZES: Final = (100, 1000, 10_000)
REST_SECONDS: Final = 330.0
"""Longer than the resync, which costs something."""
NAMESPACES: Final = 25
"""Each has a Lease that is renewed six times a minute."""
AT_ONCE: Final = 1000
SINGLE: Final = 50
"""NeuronModels that are applied one after the other."""
CALM_SECONDS: Final = 20.0
NOT_WHILE_CLONING: Final = ("kube-controller-manager", "kube-proxy", "coredns")
FIRST_SERVICE: Final = 4096
"""Addresses of clones' Services begin there: no controller has seen them."""

Object = dict[str, Any]


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="make scale", description=__doc__)
    parser.add_argument("--size", type=int, action="append", help="of a fleet that rests; may be given again")
    parser.add_argument("--rest-seconds", type=float, default=REST_SECONDS, help="how long it is watched at rest")
    parser.add_argument("--at-once", type=int, default=AT_ONCE, help="how many are applied, and changed, at once")
    parser.add_argument("--part", action="append", choices=("rest", "single", "starts", "burst"), help="else all")
    parser.add_argument("--write", action="store_true", help="write the section of docs/performance.md; of a whole run")
    parser.add_argument("--out", type=Path, help="a file for the figures, as JSON")
    parser.add_argument("--log", type=Path, help="a file for the operators' log")
    asked = parser.parse_args(arguments)
    kube_config.KUBE_CONFIG_DEFAULT_LOCATION = str(LAYOUT.kubeconfig)
    if not LAYOUT.kubeconfig.exists():
        print("there is no local cluster: `make up` makes one", file=sys.stderr)
        return 1
    serve_definition(LAYOUT.kubeconfig)
    with tempfile.TemporaryDirectory(prefix="scale-") as folder:
        try:
            asyncio.run(Command(asked, Path(folder)).run())
        except asyncio.CancelledError:
            print("ended early, by a signal", file=sys.stderr)
            return 1
    return 0


@dataclass
class Command:
    asked: argparse.Namespace
    folder: Path
    began: float = field(default_factory=time.monotonic)
    figures: dict[str, Any] = field(default_factory=dict)
    cloned: dict[str, list[Clone]] = field(default_factory=dict)
    """By namespace."""

    async def run(self) -> None:
        this = asyncio.current_task()
        assert this is not None
        for number in (signal.SIGTERM, signal.SIGINT):
            # Operators and namespaces go, whoever ends this.
            asyncio.get_running_loop().add_signal_handler(number, this.cancel)
        async with AsyncExitStack() as stack:
            # What the campaign has of rights, storage and sessions is the same here.
            self.api: Api = await stack.enter_async_context(client.connect(lambda verb, kind, status: None))
            session, _ = await admin_session(stack, self.api)
            stack.push_async_callback(self._remove_namespaces)
            await self._make_namespaces()
            self.account = self.folder / "kubeconfig"
            await make_account_without_rights(self.api, HOME, LAYOUT.kubeconfig, self.account)
            for kind, o in await grant_everywhere(self.api, HOME):
                stack.push_async_callback(delete, self.api, kind, o)
            made = await self.api.create(STORAGE_CLASS, None, storage_class(HOME))
            stack.push_async_callback(delete, self.api, STORAGE_CLASS, made)
            stack.callback(self._with_controllers)
            self.fleet: Fleet = await stack.enter_async_context(assembled(self.api, session))
            stack.callback(self._remove_clones)
            await asyncio.sleep(1.0)
            parts = {"starts": self._starts, "burst": self._burst, "rest": self._rest, "single": self._rest}
            for part in dict.fromkeys(parts[name] for name in (self.asked.part or parts)):
                await part()
        if self.asked.out:
            self.asked.out.write_text(json.dumps(self.figures, indent=2) + "\n")
        if self.asked.write:
            write(self.figures)

    def say(self, text: str) -> None:
        print(f"{(time.monotonic() - self.began) / 60:5.1f} min  {text}", flush=True)

    # Where it takes place.

    @property
    def _namespaces(self) -> list[str]:
        return [f"scale-{number:02}" for number in range(NAMESPACES)]

    async def _make_namespaces(self) -> None:
        """Those of an earlier run may still be on their way out."""
        for name in (HOME, *self._namespaces):
            await until(partial(self._is_absent, name), what=f"rid of the namespace {name}")
            await self.api.create(client.NAMESPACE, None, {"metadata": {"name": name}})
            for claim in ("models", "artifacts"):
                spec = {"accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": "1Gi"}}}
                spec |= {"storageClassName": HOME}
                await self.api.create(client.CLAIM, name, {"metadata": {"name": claim}, "spec": spec})

    async def _is_absent(self, namespace: str) -> bool:
        return await self.api.get(client.NAMESPACE, None, namespace) is None

    async def _remove_namespaces(self) -> None:
        for name in (HOME, *self._namespaces):
            if found := await self.api.get(client.NAMESPACE, None, name):
                await delete(self.api, client.NAMESPACE, found)

    def _remove_clones(self) -> None:
        for namespace in self.cloned:
            clones.remove(namespace)

    def _with_controllers(self) -> None:
        control_plane.ensure_controllers()
        control_plane.ensure_proxy()

    def _without_controllers(self) -> None:
        """Nor the service proxy and DNS, which would take thousands of new Services for work."""
        for name in NOT_WHILE_CLONING:
            processes.stop(name)

    @asynccontextmanager
    async def _operator(self) -> AsyncIterator[OperatorProcess]:
        log = self.asked.log or self.folder / "operator.log"
        operator = OperatorProcess([], self.account, log)
        operator.start()
        self.operator = operator
        try:
            yield operator
        finally:
            await asyncio.to_thread(operator.end, signal.SIGTERM)

    # What NeuronModels are asked for.

    async def _make(self, namespace: str, name: str, **spec: Any) -> float:
        """Returns when it was asked for."""
        manifest = model_manifest(name)
        manifest["spec"] |= {
            "artifacts": {"persistentVolumeClaim": {"claimName": "artifacts"}},
            "worker": {"image": IMAGE, "schedulerName": SCHEDULER},
        } | spec
        asked_at = monotonic()
        await self.api.create(client.MODEL, namespace, manifest)
        return asked_at

    async def _until(self, holds: Callable[[], bool], what: str, seconds: float = 1800.0) -> None:
        end = said = monotonic()
        end += seconds
        while not holds():
            assert monotonic() < end, f"still not: {what}"
            assert self.operator.is_alive, f"the operator has ended, and not: {what}"
            if monotonic() - said > 30:
                said = monotonic()
                self.say(f"waiting: {what}")
            self.fleet.changed.clear()
            try:
                await asyncio.wait_for(self.fleet.changed.wait(), 1.0)
            except TimeoutError:
                continue

    async def _remove_models(self, places: Sequence[Place]) -> None:
        for namespace, name in places:
            if model := await self.api.get(client.MODEL, namespace, name):
                ref = ObjectRef(client.MODEL.api_version, client.MODEL.kind, name, model["metadata"]["uid"])
                await self.api.delete(client.MODEL, namespace, ref)

    # The parts.

    async def _starts(self) -> None:
        """Requests of a start, with either strategy, one after the other and nothing else."""
        async with self._operator() as operator:
            await self._followed(operator, 0)
            for strategy in ("ShardOnCompile", "ShardOnLoad"):
                before = await measure(operator)
                places = [(self._namespaces[0], f"{strategy.lower()}-{number}") for number in range(5)]
                for namespace, name in places:
                    await self._make(namespace, name, sharding={"strategy": strategy})
                    await self._until(lambda: ((namespace, name), 1) in self.fleet.times.serving, f"{name} serves")  # noqa: B023
                    await asyncio.sleep(6.0)
                after = await measure(operator)
                writes = (after.num_writes - before.num_writes) / len(places)
                calls = difference(before.calls, after.calls)
                shown = ", ".join(f"{v} {k} {n / len(places):.1f}" for (v, k), n in sorted(calls.items()))
                self.say(f"a start with {strategy}: {writes:.1f} writes a start ({shown})")
                self.figures[f"writes a start, {strategy}"] = writes
                await self._remove_models(places)

    async def _burst(self) -> None:
        count = self.asked.at_once
        places = [(self._namespaces[number % NAMESPACES], f"burst-{number:04}") for number in range(count)]
        async with self._operator() as operator:
            await self._followed(operator, 0)
            before = await measure(operator)
            asked_at = dict(zip(places, await self._make_all(places), strict=True))
            self.say(f"{count} were applied in {max(asked_at.values()) - min(asked_at.values()):.1f} s")
            times = self.fleet.times
            await self._until(lambda: all((place, 1) in times.serving for place in places), f"{count} serve")
            for what, seen in (("first status", times.status), ("Job made", times.job)):
                found = spread([seen[place] - asked_at[place] for place in places])
                self.say(f"{count} at once: {what}: {found}")
                self.figures[f"{count} at once: {what}"] = found.__dict__
            found = spread([times.serving[place, 1] - asked_at[place] for place in places])
            self.say(f"{count} at once: serving: {found}")
            after = await measure(operator)
            self._say_process(f"{count} at once", before, after)
            await asyncio.sleep(CALM_SECONDS)
            await self._change_all(places)
            changed = await measure(operator)
            self._say_process(f"{count} changed at once", after, changed)
            self.figures[f"{count} at once: peak megabytes"] = changed.peak_megabytes
            await self._remove_models(places)
            await self._until_followed(operator, 0)

    async def _make_all(self, places: Sequence[Place]) -> list[float]:
        slots = asyncio.Semaphore(16)

        async def one(place: Place) -> float:
            async with slots:
                return await self._make(*place)

        return list(await asyncio.gather(*(one(place) for place in places)))

    async def _change_all(self, places: Sequence[Place]) -> None:
        slots, times = asyncio.Semaphore(16), self.fleet.times
        asked_at: dict[Place, float] = {}

        async def one(place: Place) -> None:
            async with slots:
                asked_at[place] = monotonic()
                change = {"spec": {"parallelism": {"tensorParallelDegree": 4}}}
                await self.api.merge(client.MODEL, *place, change)

        await asyncio.gather(*(one(place) for place in places))
        await self._until(lambda: all((place, 2) in times.serving for place in places), "all serve what is asked now")
        found = spread([times.serving[place, 2] - asked_at[place] for place in places])
        self.say(
            f"{len(places)} changed at once: serving again: {found}; {found.most / found.median:.2f} of the median"
        )
        self.figures[f"{len(places)} changed at once"] = found.__dict__

    async def _rest(self) -> None:
        original = await self._original()
        for size in self.asked.size or SIZES:
            self._without_controllers()
            await self._clone_up_to(original, size)
            async with self._operator() as operator:
                began = monotonic()
                await self._followed(operator, size)
                restarted = await measure(operator)
                self.say(
                    f"{size} at rest, restarted: all looked at in {monotonic() - began:.1f} s, "
                    f"{restarted.num_calls / size:.2f} requests a NeuronModel, "
                    f"{restarted.num_writes:.0f} writes ({_writes(restarted)}), peak {restarted.peak_megabytes:.0f} MB"
                )
                await asyncio.sleep(CALM_SECONDS)
                before, questions = await measure(operator), self.fleet.num_questions
                rest_began = monotonic()
                await asyncio.sleep(self.asked.rest_seconds)
                minutes = (monotonic() - rest_began) / 60
                after = await measure(operator)
                self.figures[f"{size} at rest"] = {
                    "restart seconds": rest_began - CALM_SECONDS - began,
                    "restart requests": restarted.num_calls / size,
                    "peak megabytes": after.peak_megabytes,
                    "megabytes": after.megabytes,
                    "requests a minute": (after.num_calls - before.num_calls) / minutes,
                    "processor": (after.cpu_seconds - before.cpu_seconds) / minutes / 60,
                }
                self.say(f"{size} at rest: {self.figures[f'{size} at rest']}")
                self.say(f"questions a second: {(self.fleet.num_questions - questions) / minutes / 60:.1f}")
                self._say_process(f"{size} at rest", before, after)
                if size == AT_ONCE or len(self.asked.size or ()) == 1:
                    await self._single(operator, size)

    async def _single(self, operator: OperatorProcess, size: int) -> None:
        """One that is applied into those that rest."""
        self._with_controllers()
        await asyncio.sleep(CALM_SECONDS)
        seconds = []
        places = [(self._namespaces[0], f"single-{number:02}") for number in range(SINGLE)]
        for place in places:
            asked_at = await self._make(*place)
            await self._until(lambda: place in self.fleet.times.job, f"the Job of {place}")  # noqa: B023
            seconds.append(self.fleet.times.job[place] - asked_at)
            await self._until(lambda: (place, 1) in self.fleet.times.serving, f"{place} serves")  # noqa: B023
        found = spread(seconds)
        self.say(f"one applied into {size} that rest, to its Job: {found}")
        self.figures[f"one into {size}"] = found.__dict__
        await self._remove_models(places)
        await self._until_followed(operator, size + 1)

    async def _original(self) -> clones.Original:
        async with self._operator():
            await self._make(HOME, ORIGINAL)
            await self._until(lambda: ((HOME, ORIGINAL), 1) in self.fleet.times.serving, "the original serves")
            await asyncio.sleep(90.0)  # until its Events no longer matter
        found = await clones.original(self.api, "")
        return clones.Original(found.objects, self.fleet.report_at(found.address))

    async def _clone_up_to(self, original: clones.Original, size: int) -> None:
        began, first = monotonic(), sum(len(each) for each in self.cloned.values())
        new = []
        for number in range(first, size - 1):
            namespace = self._namespaces[number % NAMESPACES]
            high, low = divmod(FIRST_SERVICE + number, 256)
            clone = await clones.clone(
                original, number, namespace, str(next(self.fleet.addresses)), f"10.96.{high}.{low}"
            )
            self.cloned.setdefault(namespace, []).append(clone)
            self.fleet.reports[clone.address] = clone.report
            new.append(clone)
        await asyncio.to_thread(clones.write, new)
        self.say(f"{len(new)} were cloned in {monotonic() - began:.1f} s")

    async def _followed(self, operator: OperatorProcess, size: int) -> Measured:
        """Waits until each of them was looked at."""
        while True:
            await asyncio.sleep(0.5)
            assert operator.is_alive, "the operator has ended"
            try:
                found = await measure(operator)
            except (aiohttp.ClientError, OSError, KeyError):
                continue
            if found.num_followed >= size and found.passes >= size and not found.num_waiting:
                return found

    async def _until_followed(self, operator: OperatorProcess, size: int) -> None:
        """Waits until no more than that are left."""
        while True:
            if (await measure(operator)).num_followed <= size:
                return
            await asyncio.sleep(1.0)

    def _say_process(self, what: str, before: Measured, after: Measured) -> None:
        calls = difference(before.calls, after.calls)
        shown = ", ".join(f"{verb} {kind} {count:.0f}" for (verb, kind), count in sorted(calls.items()))
        seconds, passes = after.cpu_seconds - before.cpu_seconds, after.passes - before.passes
        memory = f"{after.megabytes:.0f} MB (peak {after.peak_megabytes:.0f})"
        self.say(f"{what}: {memory}, {seconds:.1f} s of a processor, {passes:.0f} passes; {shown}")


def _writes(measured: Measured) -> str:
    return ", ".join(f"{verb} {kind} {count:.0f}" for (verb, kind), count in measured.calls.items() if verb in WRITES)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
