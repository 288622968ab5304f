"""What is done to a store in these tests: the project's own commands, with an engine that compiles nothing.

Each is a function of a module, so that a fork server can be asked for it.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from neuronmodel_api import names
from neuronmodel_api.config import Engine, Verification, WorkerConfig
from neuronmodel_api.report import Result, Stage
from neuronmodel_worker import stream
from neuronmodel_worker.engines import CompiledModel, Steps
from neuronmodel_worker.failures import WorkerFailure
from neuronmodel_worker.io import probe
from neuronmodel_worker.plan.streamed import ModelPlan
from neuronmodel_worker.prepare import preparation, required_space
from neuronmodel_worker.prepare.preparation import Preparation, open_source
from neuronmodel_worker.report.clock import FirstLine, StartClock
from neuronmodel_worker.run.context import Run
from neuronmodel_worker.store import LeaseTimings, Policy, Store
from neuronmodel_worker.store import store as store_module

GRAPH = {"graph.bin": b"a graph of no weights" * 300, "notes.json": b'{"compiler": "stand-in"}'}


class StandInEngine:
    """Compiles every model to GRAPH."""

    def version(self) -> str:
        return "stand-in 1"

    def graph_inputs(self, plan: ModelPlan, neuron_config: Mapping[str, object]) -> dict[str, object]:
        return {"family": plan.family, "degree": neuron_config["tp_degree"]}

    def import_framework(self) -> None:
        pass

    def compile(self, plan: ModelPlan, neuron_config: Mapping[str, object], directory: Path, progress: Steps) -> None:
        for done, (name, content) in enumerate(GRAPH.items()):
            (directory / name).write_bytes(content)
            progress(done + 1, len(GRAPH))

    def shard(self, plan: ModelPlan, neuron_config: Mapping[str, object], directory: Path, progress: Steps) -> None:
        raise NotImplementedError

    def devices(self) -> None:
        pass

    def open(self, directory: Path, shards: Path | None = None) -> CompiledModel:
        raise NotImplementedError


@dataclass(frozen=True)
class Model:
    """A NeuronModel on a store."""

    root: Path
    source: Path
    name: str = "one"
    flags: Mapping[str, Any] = field(default_factory=lambda: {"tp_degree": 2})
    verification: Verification = Verification.QUICK

    @property
    def owner(self) -> str:
        return f"ns.{self.name}.uid-{self.name}"

    def config(self) -> WorkerConfig:
        return WorkerConfig(
            namespace="ns",
            name=self.name,
            uid=f"uid-{self.name}",
            spec_hash="0",
            engine=Engine.CPU,
            verification=self.verification,
            source_path=str(self.source),
            neuron_config=dict(self.flags),
            artifacts_path=str(self.root),
        )


@dataclass(frozen=True)
class Failed:
    reason: str
    message: str
    needed_bytes: int | None = None
    free_bytes: int | None = None


def prepare(model: Model, patience: LeaseTimings | None = None) -> Result | Failed:
    """`neuronmodel prepare`, with little of what only takes time: small probes, and rank files that are sealed one
    after the other however small they are. Changes its process for good."""
    run = partial(stream.run, sizes=stream.Sizes(seal_bytes=1), threads=2)
    for module, name, value in (
        (store_module, "LeaseTimings", lambda: patience or LeaseTimings()),
        (probe, "BLOCK_BYTES", 4096),
        (probe, "KEPT_MAX_BYTES", 4096),
        (required_space, "COMPILED_ALLOWANCE", {Engine.CPU: 1 << 16}),
        (preparation, "run", run),
    ):
        setattr(module, name, value)
    try:
        job = Run(model.config(), StartClock(Stage.PREPARE, FirstLine.now()))
        return Preparation(job, open_source(job), StandInEngine()).result()
    except WorkerFailure as failure:
        return to_failed(failure)


def unsynced(job: Callable[[Model], Any], model: Model) -> Any:
    """The job without waiting for disks: what syncs are for is tested elsewhere. Changes its process for good."""
    setattr(os, "fsync", lambda descriptor: None)  # noqa: B010 - its parameter has another name
    return job(model)


def to_failed(failure: WorkerFailure) -> Failed:
    needed, free = (getattr(failure, name, None) for name in ("needed_bytes", "free_bytes"))
    return Failed(failure.reason, str(failure), needed, free)


def clean_up(model: Model) -> list[str]:
    """`neuronmodel cleanup`: the keys whose sets were removed."""
    store = Store(model.root)
    return store.remove_unreferenced(store.retire(names.owner("ns", model.name, "*")))


def collect(model: Model) -> list[str]:
    """`neuronmodel artifacts collect`: everything that nobody needs, however young."""
    return [str(item.directory) for item in Store(model.root).collect(Policy(older_than_seconds=0)).items]
