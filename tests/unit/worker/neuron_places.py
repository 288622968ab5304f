"""A place for worker processes of engine Neuron on stand-ins for the Neuron SDK."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from neuronmodel_api.report import Report, Result
from tests.paths import NEURON_STAND_INS, PROJECT
from tests.unit.worker.engines.models import edit_config, write_chat_model
from tests.unit.worker.workers import Ended, Place

FLAGS: dict[str, Any] = {
    "tp_degree": 3,
    "torch_dtype": "float32",
    "batch_size": 1,
    "max_context_length": 64,
    "seq_len": 128,
    "logical_nc_config": 2,
}
NOT_OF_TESTS = (
    "NEURON_LOGICAL_NC_CONFIG",
    "NEURON_RT_VIRTUAL_CORE_SIZE",
    "NEURON_RT_NUM_CORES",
    "NEURON_PLATFORM_TARGET_OVERRIDE",
    "NXD_LAYOUT_TRANSFORMATION_OPTIONS",
)


@dataclass
class NeuronPlace(Place):
    """`prepare` runs where there is no device, `serve` where there are `devices`."""

    devices: int = 1

    @property
    def record(self) -> Path:
        return self.root / "calls.jsonl"

    def called(self, event: str) -> list[dict[str, Any]]:
        """What the library was called with, by any process."""
        lines = self.record.read_text().splitlines() if self.record.exists() else []
        return [call for call in map(json.loads, lines) if call["event"] == event]

    def config(self, **changes: Any) -> dict[str, Any]:
        return super().config(**{"engine": "Neuron", "neuronConfig": FLAGS, **self.settings, **changes})

    def start(self, command: str, before: str = "", **changes: Any) -> Any:
        os.environ["NEURON_STANDIN_DEVICES"] = str(self.devices if command == "serve" else 0)
        return super().start(command, before, **changes)

    def ended(self, command: str, **changes: Any) -> Ended:
        """As a process: nothing of the stand-ins is imported here."""
        return self.start(command, **changes).wait()  # type: ignore[no-any-return]

    def prepare(self, **changes: Any) -> Report:
        ended = self.ended("prepare", **changes)
        assert ended.code == 0, ended.stderr
        return ended.report

    def prepared(self, **changes: Any) -> Result:
        result = self.prepare(**changes).result
        assert result is not None
        return result

    def another(self, name: str, seed: int, model_type: str = "llama") -> "NeuronPlace":
        """A model of other weights on the same volume; of other types than Llama in its configuration alone."""
        source = self.root / name
        source.mkdir()
        write_chat_model(source, seed=seed)
        edit_config(source, model_type=model_type)
        return NeuronPlace(self.root, source, {**self.settings, "name": name, "uid": f"uid-{name}"})


def neuron_place(root: Path, monkeypatch: pytest.MonkeyPatch, **settings: Any) -> NeuronPlace:
    for name in NOT_OF_TESTS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NEURON_STANDIN_DEVICES", "0")
    monkeypatch.setenv("NEURON_STANDIN_FAIL", "")
    monkeypatch.setenv("NEURON_STANDIN_STATE", str(root / "counts"))
    monkeypatch.setenv("PYTHONPATH", f"{NEURON_STAND_INS}{os.pathsep}{PROJECT}")
    monkeypatch.setenv("PATH", str(NEURON_STAND_INS / "bin"), prepend=os.pathsep)
    source = root / "source"
    source.mkdir()
    write_chat_model(source)
    place = NeuronPlace(root, source, settings)
    monkeypatch.setenv("NEURON_STANDIN_LOG", str(place.record))
    return place
