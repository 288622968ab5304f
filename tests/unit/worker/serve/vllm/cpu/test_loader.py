"""Our loader in the processes of a vLLM, here with its registry and its model in this process."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from neuronmodel_api.config import WorkerConfig
from neuronmodel_worker.serve.vllm.cpu.loader import load_rank, register_loader
from neuronmodel_worker.serve.vllm.cpu.parameters import Group
from neuronmodel_worker.serve.vllm.instruction import Instruction
from neuronmodel_worker.serve.vllm.relay import LoadHookFailed
from tests.unit.worker.engines.models import write_chat_model
from tests.unit.worker.scratch_cache.test_start import copied
from tests.unit.worker.workers import Place, returned
from tests.waiting import until

DEGREE = 2
SIZES: dict[str, Any] = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 1, "num_attention_heads": 2}
SERVED: dict[str, Any] = {
    "engine": "CPU", "server": "VLLM", "neuronConfig": {"tp_degree": DEGREE, "torch_dtype": "float32", "seq_len": 64},
}  # fmt: skip


class Model:
    """With the parameters of one rank, as vLLM's Llama has them."""

    def __init__(self) -> None:
        layer = "model.layers.0."
        shapes = {
            "model.embed_tokens.weight": (160, 64), layer + "self_attn.qkv_proj.weight": (96, 64),
            layer + "self_attn.o_proj.weight": (64, 32), layer + "mlp.gate_up_proj.weight": (96, 64),
            layer + "mlp.down_proj.weight": (64, 48), layer + "input_layernorm.weight": (64,),
            layer + "post_attention_layernorm.weight": (64,), "model.norm.weight": (64,),
        }  # fmt: skip
        self.parameters = {name: torch.full(shape, 77.0) for name, shape in shapes.items()}

    def named_parameters(self) -> Any:
        return iter(self.parameters.items())


@pytest.fixture
def served(tmp_path: Path) -> Place:
    source = tmp_path / "source"
    source.mkdir()
    write_chat_model(source, **SIZES, num_key_value_heads=2, tie_word_embeddings=True)
    return Place(tmp_path, source, SERVED)


def instruction_of(place: Place, **changes: Any) -> Instruction:
    result = place.prepare(**changes).result
    assert result is not None
    config = place.config(**{**returned(result.to_json()), **changes})
    relay = place.root / "relay.jsonl"
    relay.unlink(missing_ok=True)
    return Instruction(config=WorkerConfig.model_validate(config), relay=relay)


def load(instruction: Instruction, rank: int, place: Place) -> Mapping[str, torch.Tensor]:
    """The embeddings, whose rows do not fit, are gathered: here from the checkpoint."""
    embeddings, model = load_file(place.source / "model.safetensors")["model.embed_tokens.weight"], Model()
    load_rank(instruction, Group(rank, DEGREE, lambda part, dimension: embeddings), model)
    return model.parameters


def relayed(place: Place) -> list[dict[str, Any]]:
    file = place.root / "relay.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()]


@pytest.mark.parametrize(("strategy", "way"), [("ShardOnCompile", "Read"), ("ShardOnLoad", "Sharded")])
def test_each_rank_loads_its_own_tensors_and_the_first_reports(served: Place, strategy: str, way: str) -> None:
    instruction, given = instruction_of(served, strategy=strategy), load_file(served.source / "model.safetensors")
    for rank in range(DEGREE):
        found = load(instruction, rank, served)
        down = given["model.layers.0.mlp.down_proj.weight"].chunk(DEGREE, 1)[rank]
        torch.testing.assert_close(found["model.layers.0.mlp.down_proj.weight"], down, rtol=0, atol=0)
        rows = given["model.embed_tokens.weight"][160 * rank : 160 * (rank + 1)]
        torch.testing.assert_close(found["model.embed_tokens.weight"][: len(rows)], rows, rtol=0, atol=0)
    events = relayed(served)
    assert [each["name"] for each in events if each["event"] == "begin"] == [way, "DeviceLoaded", "ServerStarted"]
    assert [each["tier"] for each in events if each["event"] == "tier"] == ["Artifacts" if way == "Read" else "Source"]


def test_a_rank_reads_no_more_than_its_own_file(served: Place) -> None:
    instruction = instruction_of(served, strategy="ShardOnCompile")
    files = list((served.artifacts / "shards").rglob("tp*.safetensors"))
    assert len(files) == DEGREE
    load(instruction, 0, served)
    (read,) = (each["total"] for each in relayed(served) if each.get("name") == "Read")
    assert read == files[0].stat().st_size


def test_one_process_copies_the_whole_set_and_each_reads_its_rank_of_it(served: Place) -> None:
    instruction = instruction_of(served, strategy="ShardOnCompile", scratchTier=True)
    first = load(instruction, 0, served)
    until(lambda: copied(served), "the copy on scratch")
    again = load(instruction, 0, served)
    assert [each["tier"] for each in relayed(served) if each["event"] == "tier"] == ["Artifacts", "Scratch"]
    for name, tensor in first.items():
        torch.testing.assert_close(again[name], tensor, rtol=0, atol=0)


def test_every_rank_reports_its_failure(served: Place) -> None:
    instruction = instruction_of(served, strategy="ShardOnCompile")
    shard = next((served.artifacts / "shards").rglob("tp1_*"))
    os.truncate(shard, 100)
    with pytest.raises(LoadHookFailed):
        load(instruction, 1, served)
    assert [(each["event"], each["reason"]) for each in relayed(served)] == [("failure", "ArtifactDamaged")]


def test_it_is_registered_as_vllm_s_own_loaders_are(tmp_path: Path) -> None:
    """The instruction is read when a model is loaded: other processes register it too."""
    registry, loaders = ModuleType("model_loader"), dict[str, type[Any]]()
    registry.BaseModelLoader = type("BaseModelLoader", (), {})  # type: ignore[attr-defined]
    registry.register_model_loader = lambda name: lambda made: loaders.setdefault(name, made)  # type: ignore[attr-defined]
    register_loader(registry, tmp_path / "no-such-file")
    loaders["neuronmodel"]().download_model(None)
