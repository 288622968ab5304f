"""The configuration of a pod's worker, and its `prepare` without ports and pods."""

from pathlib import Path
from typing import Any

from hack.bench.contenders.task import Task
from neuronmodel_api.config import Engine, WorkerConfig
from neuronmodel_api.report import Result, Stage
from neuronmodel_worker.engines import open_engine
from neuronmodel_worker.io.probe import kept_probe
from neuronmodel_worker.prepare.preparation import Preparation, open_source
from neuronmodel_worker.report.clock import FirstLine, StartClock
from neuronmodel_worker.run.context import Run


def job(task: Task, artifacts: Path, **settings: Any) -> Run:
    """On the CPU engine, which takes the rank tensors without copying them."""
    config = WorkerConfig(
        namespace="bench",
        name="bench",
        uid="bench",
        spec_hash="",
        engine=Engine.CPU,
        source_path=str(task.source),
        artifacts_path=str(artifacts),
        scratch_path=str(task.output / "scratch"),
        neuron_config=dict(task.neuron_config),
        **settings,
    )
    return Run(config, StartClock(Stage.SERVE, FirstLine.now()))


def prepared(run: Run) -> Result:
    return Preparation(run, open_source(run), open_engine(run.config)).result()


def serving(run: Run, result: Result) -> Run:
    """As the operator tells it what was prepared."""
    found = {
        "compiled_key": result.compiled_key,
        "shards_key": result.shards_key,
        "source_fingerprint": result.source_fingerprint,
        "source_content": result.source_content,
    }
    return Run(run.config.model_copy(update=found), StartClock(Stage.SERVE, FirstLine.now()))


def probed(volume: Path) -> Path:
    """A volume that prepare need not probe: it does so once a day."""
    volume.mkdir(parents=True, exist_ok=True)
    kept_probe(volume)
    return volume
