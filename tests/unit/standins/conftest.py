"""The stand-ins on this process's path for a test, and an application of a tiny Llama."""

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.paths import NEURON_STAND_INS
from tests.unit.worker.engines import models

PACKAGES = ("torch_neuronx", "libneuronxla", "neuronxcc", "neuronx_distributed", "neuronx_distributed_inference")
FLAGS: dict[str, Any] = {
    "tp_degree": 3,
    "batch_size": 2,
    "max_context_length": 32,
    "seq_len": 64,
    "torch_dtype": "float32",
    "logical_nc_config": 2,
}

Importer = Callable[[str], Any]
Build = Callable[..., Any]


@pytest.fixture
def neuron(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Importer]:
    """Imports a module of theirs. The machine has no devices; counts and compiler work are the test's own."""
    for name in list(sys.modules):
        if name.partition(".")[0] in PACKAGES:
            del sys.modules[name]
    monkeypatch.syspath_prepend(str(NEURON_STAND_INS))
    for name in (
        "NEURON_LOGICAL_NC_CONFIG",
        "NEURON_RT_VIRTUAL_CORE_SIZE",
        "NEURON_RT_NUM_CORES",
        "NEURON_STANDIN_FAIL",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NEURON_PLATFORM_TARGET_OVERRIDE", "trn2")
    monkeypatch.setenv("NEURON_STANDIN_STATE", str(tmp_path / "counts"))
    monkeypatch.setenv("BASE_COMPILE_WORK_DIR", str(tmp_path / "work"))
    monkeypatch.setenv("PYTHONPATH", str(NEURON_STAND_INS))
    monkeypatch.setenv("PATH", str(NEURON_STAND_INS / "bin"), prepend=":")
    importlib.import_module("torch_neuronx")
    calls: list[Any] = importlib.import_module("neuron_standin.record").calls
    calls.clear()
    yield importlib.import_module
    for name in list(sys.modules):
        if name.partition(".")[0] in PACKAGES:
            del sys.modules[name]


@pytest.fixture
def devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEURON_STANDIN_DEVICES", "16")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    models.write_model(tmp_path / "source")
    return tmp_path / "source"


@pytest.fixture
def build(neuron: Importer) -> Build:
    """An application of the checkpoint in a folder, with these flags over `FLAGS`."""

    def build(source: Path, **flags: Any) -> Any:
        cls = neuron("neuronx_distributed_inference.utils.constants").MODEL_TYPES["llama"]["causal-lm"]
        load_config = neuron("neuronx_distributed_inference.utils.hf_adapter").load_pretrained_config(str(source))
        config = cls.get_config_cls()(cls.get_neuron_config_cls()(**{**FLAGS, **flags}), load_config=load_config)
        return cls(str(source), config)

    return build


@pytest.fixture
def called(neuron: Importer) -> Callable[[str], list[dict[str, Any]]]:
    """The calls of one kind in this process."""
    calls = neuron("neuron_standin.record").calls
    return lambda event: [call for call in calls if call["event"] == event]


def answer(neuron: Importer, application: Any, prompt: list[int], num_tokens: int) -> list[int]:
    """Through the adapter, greedily."""
    from transformers import GenerationConfig

    adapter = neuron("neuronx_distributed_inference.utils.hf_adapter").HuggingFaceGenerationAdapter(application)
    input_ids = torch.tensor([prompt])
    settings = GenerationConfig(max_new_tokens=num_tokens, pad_token_id=2, eos_token_id=-1, do_sample=False)
    made = adapter.generate(input_ids, attention_mask=torch.ones_like(input_ids), generation_config=settings)
    tokens: list[int] = made[0, len(prompt) :].tolist()
    return tokens


def reference(source: Path, prompt: list[int], num_tokens: int) -> list[int]:
    """By transformers alone."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
    input_ids = torch.tensor([prompt])
    made = model.generate(
        input_ids,
        attention_mask=torch.ones_like(input_ids),
        max_new_tokens=num_tokens,
        do_sample=False,
        eos_token_id=-1,
    )
    tokens: list[int] = made[0, len(prompt) :].tolist()
    return tokens
