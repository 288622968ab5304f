"""The Neuron engine on the stand-ins of the SDK; children run in this process unless a test wants a real one."""

import os
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from neuronmodel_api.config import Engine, WorkerConfig
from neuronmodel_worker.engines.neuron import NeuronEngine
from neuronmodel_worker.engines.nxdi import child, compilation
from neuronmodel_worker.engines.nxdi.child_process import ChildResult
from neuronmodel_worker.failures import WorkerFailure
from tests.nxdi_flags import COMMAND_OF_405B as COMMAND
from tests.unit.standins.conftest import Importer, devices, neuron

__all__ = ["COMMAND", "devices", "neuron"]

SMALL: dict[str, Any] = {
    "tp_degree": 3,
    "torch_dtype": "float32",
    "seq_len": 64,
    "max_context_length": 32,
    "batch_size": 2,
    "logical_nc_config": 2,
}

MakeEngine = Callable[..., NeuronEngine]
Calls = Callable[[str], list[dict[str, Any]]]


def no_progress(done: int, total: int) -> None:
    pass


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a start says to the library goes with the test."""
    for name in ("NEURON_RT_VIRTUAL_CORE_SIZE", "NEURON_RT_NUM_CORES", "NEURON_RT_EXEC_TIMEOUT"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


@pytest.fixture
def make_engine(neuron: Importer, tmp_path: Path) -> MakeEngine:
    """An engine for the checkpoint in a folder, with these flags; other settings by their names."""

    def make(source: Path, flags: Mapping[str, Any], **settings: Any) -> NeuronEngine:
        for name in ("artifacts", "scratch"):
            (tmp_path / name).mkdir(exist_ok=True)
        return NeuronEngine(worker_config(source, flags, tmp_path, **settings))

    return make


def worker_config(source: Path, flags: Mapping[str, Any], work: Path, **settings: Any) -> WorkerConfig:
    return WorkerConfig(
        **{
            "namespace": "n",
            "name": "m",
            "uid": "u",
            "spec_hash": "h",
            "engine": Engine.NEURON,
            "source_path": str(source),
            "neuron_config": dict(flags),
            "artifacts_path": str(work / "artifacts"),
            "scratch_path": str(work / "scratch"),
            **settings,
        }
    )


@pytest.fixture
def in_process(neuron: Importer, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a child would do, without the seconds that its imports take."""

    def run(instruction: Mapping[str, Any], environment: Mapping[str, str], log_file: Path) -> ChildResult:
        import json

        with pytest.MonkeyPatch.context() as environ:
            for name, value in environment.items():
                if os.environ.get(name) != value:
                    environ.setenv(name, value)
            code, output = 0, ""
            try:
                child.run_task(dict(instruction))
            except WorkerFailure as failure:
                outcome = {"reason": failure.reason, "message": str(failure)}
                Path(instruction["outcome"]).write_text(json.dumps(outcome))
                code = failure.exit_code
            except Exception:
                code, output = 1, traceback.format_exc()
        with log_file.open("a") as log:
            log.write(output)
        return ChildResult(code, output)

    monkeypatch.setattr(compilation, "run_child", run)


@pytest.fixture
def called(neuron: Importer) -> Calls:
    """The stand-ins' calls of one kind in this process."""
    calls = neuron("neuron_standin.record").calls
    return lambda event: [call for call in calls if call["event"] == event]


@pytest.fixture
def recorded(neuron: Importer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Calls:
    """Of all processes, with digests of what was handed over."""
    log = tmp_path / "calls.jsonl"
    monkeypatch.setenv("NEURON_STANDIN_LOG", str(log))
    read = neuron("neuron_standin.record").recorded
    return lambda event: list(read(log, event))
