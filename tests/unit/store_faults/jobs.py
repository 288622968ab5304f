"""What is done to a store in these tests: the project's own commands, with an engine that compiles nothing.

Each is a function of a module, so that a fork server can be asked for it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from neuronmodel_api.config import WorkerConfig
from neuronmodel_api.report import Result, Stage
from neuronmodel_worker.artifacts import wanted_artifacts
from neuronmodel_worker.engines import CompiledModel, Steps
from neuronmodel_worker.failures import WorkerFailure
from neuronmodel_worker.lifecycle import Run
from neuronmodel_worker.plan import Plan
from neuronmodel_worker.prepare import Preparation, open_source
from neuronmodel_worker.report import FirstLine, StartClock
from neuronmodel_worker.store import Store

GRAPH = {"graph.bin": b"a graph of no weights" * 300, "notes.json": b'{"compiler": "stand-in"}'}


class StandInEngine:
    """Compiles every model to GRAPH."""

    def version(self) -> str:
        return "stand-in 1"

    def graph_inputs(self, plan: Plan, neuron_config: Mapping[str, object]) -> dict[str, object]:
        return {"family": plan.layout.family, "degree": neuron_config["tp_degree"]}

    def import_framework(self) -> None:
        pass

    def compile(self, plan: Plan, neuron_config: Mapping[str, object], directory: Path, progress: Steps) -> None:
        for done, (name, content) in enumerate(GRAPH.items()):
            (directory / name).write_bytes(content)
            progress(done + 1, len(GRAPH))

    def open(self, directory: Path) -> CompiledModel:
        raise NotImplementedError


@dataclass(frozen=True)
class Model:
    """A NeuronModel on a store."""

    root: Path
    source: Path
    name: str = "one"
    flags: Mapping[str, Any] = field(default_factory=lambda: {"tp_degree": 2})

    @property
    def owner(self) -> str:
        return f"ns.{self.name}.uid-{self.name}"

    def config(self) -> WorkerConfig:
        return WorkerConfig(
            namespace="ns",
            name=self.name,
            uid=f"uid-{self.name}",
            spec_hash="0",
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


def prepare(model: Model) -> Result | Failed:
    """`neuronmodel prepare`."""
    config = model.config()
    try:
        job = Run(config, StartClock(Stage.PREPARE, FirstLine.now()))
        plan, engine = open_source(job), StandInEngine()
        return Preparation(job, plan, engine, wanted_artifacts(config, plan, engine)).result()
    except WorkerFailure as failure:
        return Failed(
            failure.reason,
            str(failure),
            getattr(failure, "needed_bytes", None),
            getattr(failure, "free_bytes", None),
        )


def clean_up(model: Model) -> list[str]:
    """`neuronmodel cleanup`: the keys whose sets were removed."""
    store = Store(model.root)
    return store.remove_unreferenced(store.unrefer(model.owner))
