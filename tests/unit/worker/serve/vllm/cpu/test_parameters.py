"""Rank tensors in vLLM's parameters: those that vLLM itself would slice from the checkpoint, rank by rank."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaForCausalLM

from neuronmodel_worker.engines.rank_tensors import as_torch
from neuronmodel_worker.serve.vllm.cpu.parameters import Group, ParameterFiller, ParametersDiffer
from tests.unit.worker.engines.models import shard, write_model

Parameters = dict[str, torch.Tensor]
PADDED = 64
"""vLLM pads a vocabulary to a multiple of this."""


def parameters_of_vllm(model: LlamaForCausalLM, degree: int, rank: int) -> Parameters:
    """As vLLM's Llama has them: stacked, sliced, the vocabulary in padded rows."""
    config = model.config
    given: Parameters = dict(model.state_dict())
    made: Parameters = {}

    def rows(name: str) -> torch.Tensor:
        return torch.chunk(given[name], degree)[rank]

    def key_value(name: str) -> torch.Tensor:
        """Heads that are fewer than the ranks are repeated."""
        heads: int = config.num_key_value_heads
        return torch.chunk(given[name], min(heads, degree))[rank * min(heads, degree) // degree]

    def vocabulary(name: str) -> torch.Tensor:
        padded = -(-config.vocab_size // PADDED) * PADDED
        whole = torch.zeros(padded, config.hidden_size)
        whole[: config.vocab_size] = given[name]
        return whole.chunk(degree)[rank]

    made["model.embed_tokens.weight"] = vocabulary("model.embed_tokens.weight")
    for number in range(config.num_hidden_layers):
        layer = f"model.layers.{number}."
        kinds = ["weight", "bias"] if config.attention_bias else ["weight"]
        for kind in kinds:
            query, *others = (f"{layer}self_attn.{which}_proj.{kind}" for which in "qkv")
            made[f"{layer}self_attn.qkv_proj.{kind}"] = torch.cat([rows(query), *map(key_value, others)])
        output = f"{layer}self_attn.o_proj."
        made[f"{output}weight"] = given[f"{output}weight"].chunk(degree, 1)[rank]
        if config.attention_bias:
            made[f"{output}bias"] = given[f"{output}bias"]
        both = [rows(f"{layer}mlp.{which}_proj.weight") for which in ("gate", "up")]
        made[f"{layer}mlp.gate_up_proj.weight"] = torch.cat(both)
        made[f"{layer}mlp.down_proj.weight"] = given[f"{layer}mlp.down_proj.weight"].chunk(degree, 1)[rank]
        for norm in ("input_layernorm.weight", "post_attention_layernorm.weight"):
            made[layer + norm] = given[layer + norm]
    made["model.norm.weight"] = given["model.norm.weight"]
    if not config.tie_word_embeddings:
        made["lm_head.weight"] = vocabulary("lm_head.weight")
    return made


def filled(source: Path, expected: list[Parameters], **flags: Any) -> Iterator[Parameters]:
    """What each rank's process makes of its tensors."""
    degree = len(expected)
    plan, ranks = shard(source, {"tp_degree": degree, "torch_dtype": "float32", **flags})
    tensors = [{name: as_torch(tensor) for name, tensor in rank.items()} for rank in ranks]
    for rank, mine in enumerate(tensors):

        def gather(part: torch.Tensor, dimension: int, mine: Parameters = mine) -> torch.Tensor:
            name = next(name for name, tensor in mine.items() if tensor.data_ptr() == part.data_ptr())
            return torch.cat([each[name] for each in tensors], dimension)

        parameters = {name: torch.full_like(value, 77) for name, value in expected[rank].items()}
        ParameterFiller(plan.layout, mine, Group(rank, degree, gather)).fill(parameters, lambda done, total: None)
        yield parameters


SIZES: dict[str, Any] = {"hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2}


@pytest.mark.parametrize("degree", [1, 2, 4])
@pytest.mark.parametrize(
    ("config", "flags"),
    [
        ({}, {}),
        ({"vocab_size": 128}, {"vocab_parallel": True}),
        ({"tie_word_embeddings": True}, {"fused_qkv": True}),
        ({"tie_word_embeddings": True, "vocab_size": 256}, {}),
        ({"attention_bias": True}, {"vocab_parallel": True}),
        ({}, {"fused_qkv": True, "qkv_kernel_enabled": True, "mlp_kernel_enabled": True}),
    ],
)
def test_every_parameter_is_what_vllm_would_have_sliced(
    tmp_path: Path, degree: int, config: dict[str, Any], flags: dict[str, Any]
) -> None:
    model = write_model(tmp_path, **SIZES | config)
    expected = [parameters_of_vllm(model, degree, rank) for rank in range(degree)]
    for found, wanted in zip(filled(tmp_path, expected, **flags), expected, strict=True):
        for name, value in wanted.items():
            torch.testing.assert_close(found[name], value, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"model.layers.0.mlp.router.weight": torch.empty(2)}, "router.weight is not known"),
        ({"model.layers.0.mlp.down_proj.weight": torch.empty(2, 2)}, r"down_proj.weight is \[2, 2\], and .* prepared"),
        ({"model.norm.weight": torch.empty(64, dtype=torch.int8)}, "is of type torch.int8"),
        ({"model.layers.0.mlp.down_proj.bias": torch.empty(64)}, "there is no layers.0.mlp.down_proj.bias"),
        ({"model.layers.1.input_layernorm.weight": None}, "no place for layers.1.input_layernorm.weight"),
    ],
)
def test_another_model_than_was_prepared_is_refused(
    tmp_path: Path, change: dict[str, torch.Tensor | None], says: str
) -> None:
    model = write_model(tmp_path, **SIZES)
    expected = {
        name: value for name, value in {**parameters_of_vllm(model, 1, 0), **change}.items() if value is not None
    }
    with pytest.raises(ParametersDiffer, match=says):
        list(filled(tmp_path, [expected]))
