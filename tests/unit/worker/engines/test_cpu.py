"""From shards the CPU engine computes what transformers computes from the checkpoint; from wrong shards it does not."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaForCausalLM

from neuronmodel_api.config import Engine, WorkerConfig
from neuronmodel_worker.engines import NoEngine, Sampling, llama_graph, open_engine
from neuronmodel_worker.engines.cpu import CpuEngine
from neuronmodel_worker.engines.llama_graph import WIDENED
from neuronmodel_worker.engines.llama_shape import EngineRefused, LlamaConfig, llama_shape, rope_scaling
from neuronmodel_worker.engines.logit_checks import LogitsNotFinite
from neuronmodel_worker.engines.rotary import rotary_frequencies
from neuronmodel_worker.failures import ArtifactDamaged
from neuronmodel_worker.stream import RankTensor
from tests.unit.worker.engines.models import compile_and_load, edit_config, shard, write_model

TOKENS = torch.randint(0, 131, (17,), generator=torch.Generator().manual_seed(1))


def logits_of(source: Path, flags: dict[str, Any], work: Path) -> torch.Tensor:
    flags = {"torch_dtype": "float32", "seq_len": 64, **flags}
    plan, ranks = shard(source, flags)
    return compile_and_load(plan, flags, ranks, work / "compiled").logits(TOKENS.tolist(), last_only=False)


def reference(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        result: torch.Tensor = model(TOKENS[None]).logits[0].float()
    return result


GROUPED = {"num_attention_heads": 9, "num_key_value_heads": 3}
EQUAL = {"num_attention_heads": 9, "num_key_value_heads": 9}
PADDED_GROUPS = {"num_attention_heads": 6, "num_key_value_heads": 2, "hidden_size": 48}


@pytest.mark.parametrize(
    ("config", "degree"),
    [
        (GROUPED, 1), (GROUPED, 3), (GROUPED, 9), (EQUAL, 2), (EQUAL, 9), (EQUAL, 6), (PADDED_GROUPS, 2),
        (PADDED_GROUPS, 4), (PADDED_GROUPS, 8), ({**GROUPED, "head_dim": 16}, 3),
    ],
)  # fmt: skip
def test_logits_from_shards_are_those_of_the_checkpoint(tmp_path: Path, config: dict[str, Any], degree: int) -> None:
    model = write_model(tmp_path / "source", **config)
    assert torch.allclose(logits_of(tmp_path / "source", {"tp_degree": degree}, tmp_path), reference(model), atol=1e-4)


SKIP_GAMMA = {
    "fused_qkv": True, "qkv_kernel_enabled": True, "mlp_kernel_enabled": True, "fused_rmsnorm_skip_gamma": True,
}  # fmt: skip


@pytest.mark.parametrize(
    ("config", "flags"),
    [
        ({}, {"fused_qkv": True}),
        ({}, {"fused_qkv": True, "qkv_kernel_enabled": True}),
        ({}, {"fused_qkv": True, "qkv_nki_kernel_enabled": True}),
        ({}, {"qkv_kernel_enabled": True}),
        ({}, {"mlp_kernel_enabled": True}),
        ({}, {"mlp_tkg_nki_kernel_enabled": True}),
        ({}, {"out_proj_kernel_enabled": True}),
        ({}, SKIP_GAMMA),
        ({}, {**SKIP_GAMMA, "sequence_parallel_enabled": True}),
        ({}, {"fused_rmsnorm_skip_gamma": True, "qkv_kernel_enabled": True}),
        ({}, {"vocab_parallel": True}),
        ({}, {"cast_type": "as-declared"}),
        ({"tie_word_embeddings": True}, {}),
        ({"tie_word_embeddings": True}, {"vocab_parallel": True}),
        ({"attention_bias": True}, {}),
        ({"mlp_bias": True, "intermediate_size": 99}, {}),
        ({"mlp_bias": True, "intermediate_size": 99}, {"mlp_kernel_enabled": True}),
        ({"rope_theta": 500000.0}, {}),
        ({"rope_scaling": {"rope_type": "linear", "factor": 4.0}}, {}),
        (
            {
                "rope_scaling": {
                    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                    "original_max_position_embeddings": 16,
                }
            },
            {},
        ),
    ],
)  # fmt: skip
def test_every_layout_is_computed_as_the_checkpoint_is(
    tmp_path: Path, config: dict[str, Any], flags: dict[str, Any]
) -> None:
    model = write_model(tmp_path / "source", **config)
    assert torch.allclose(
        logits_of(tmp_path / "source", {"tp_degree": 3, **flags}, tmp_path), reference(model), atol=1e-4
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("degree", [1, 3])
@pytest.mark.parametrize("widened", [WIDENED, 1000])
def test_shards_of_16_bits_are_computed_in_float32(
    tmp_path: Path, dtype: torch.dtype, degree: int, widened: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As transformers computes in float32 from weights rounded to 16 bits; with few elements widened at a time too."""
    monkeypatch.setattr(llama_graph, "WIDENED", widened)
    write_model(tmp_path / "source", dtype=dtype)
    flags = {"tp_degree": degree, "torch_dtype": str(dtype).removeprefix("torch.")}
    # Read back, as `model.float()` would keep frequencies that were rounded with the weights.
    exact = LlamaForCausalLM.from_pretrained(tmp_path / "source", dtype=torch.float32)
    assert torch.allclose(logits_of(tmp_path / "source", flags, tmp_path), reference(exact), atol=1e-4)


def loaded(tmp_path: Path, degree: int = 3, **flags: Any) -> Any:
    write_model(tmp_path / "source")
    flags = {"tp_degree": degree, "torch_dtype": "float32", "seq_len": 64, **flags}
    plan, ranks = shard(tmp_path / "source", flags)
    return compile_and_load(plan, flags, ranks, tmp_path / "compiled")


def test_decoding_with_the_cache_is_the_full_forward_pass(tmp_path: Path) -> None:
    model = loaded(tmp_path)
    whole = model.logits(TOKENS.tolist(), last_only=False)
    first = model.logits(TOKENS[:5].tolist(), last_only=False)
    several = model.logits(TOKENS[5:9].tolist(), start=5, last_only=False)
    single = [model.logits([token], start=9 + i) for i, token in enumerate(TOKENS[9:].tolist())]
    assert torch.allclose(torch.cat([first, several, *single]), whole, atol=1e-4)


def test_answers_in_different_slots_do_not_disturb_each_other(tmp_path: Path) -> None:
    model = loaded(tmp_path, batch_size=2)
    greedy = Sampling(temperature=0.0)
    alone = [token for token, _ in zip(model.generate(TOKENS[:5].tolist(), greedy), range(10), strict=False)]
    one, other = model.generate(TOKENS[:5].tolist(), greedy), model.generate(TOKENS[5:].tolist(), greedy)
    together = [(next(one), next(other))[0] for _ in range(10)]
    assert together == alone


@pytest.mark.parametrize(
    "name",
    [
        "embed_tokens.weight", "lm_head.weight", "norm.weight", "layers.0.self_attn.qkv_proj.k_proj.weight",
        "layers.1.self_attn.o_proj.o_proj.weight", "layers.1.mlp.up_proj.weight", "layers.0.input_layernorm.weight",
    ],
)  # fmt: skip
def test_a_damaged_tensor_of_one_rank_gives_another_answer(tmp_path: Path, name: str) -> None:
    model = write_model(tmp_path / "source")
    flags = {"tp_degree": 3, "torch_dtype": "float32", "seq_len": 64}
    plan, ranks = shard(tmp_path / "source", flags)
    ranks[1][name].data[...] = -ranks[1][name].data
    found = compile_and_load(plan, flags, ranks, tmp_path / "compiled").logits(TOKENS.tolist(), last_only=False)
    assert (found - reference(model)).abs().max() > 1e-2


@pytest.mark.parametrize("flags", [{}, {"vocab_parallel": True}])
def test_swapped_attention_shards_give_another_answer(tmp_path: Path, flags: dict[str, Any]) -> None:
    """Swapping whole ranks also swaps what both ends contribute; the order of ranks is part of the answer."""
    model = write_model(tmp_path / "source")
    flags = {"tp_degree": 3, "torch_dtype": "float32", "seq_len": 64, **flags}
    plan, ranks = shard(tmp_path / "source", flags)
    ranks[0], ranks[2] = ranks[2], ranks[0]
    found = compile_and_load(plan, flags, ranks, tmp_path / "compiled").logits(TOKENS.tolist(), last_only=False)
    assert (found - reference(model)).abs().max() > 1e-2


def test_the_compiled_graph_holds_no_weights(tmp_path: Path) -> None:
    loaded(tmp_path)
    weights = sum(file.stat().st_size for file in (tmp_path / "source").glob("*.safetensors"))
    assert sum(file.stat().st_size for file in (tmp_path / "compiled").iterdir()) < weights / 4


def test_a_graph_that_was_cut_off_is_damaged(tmp_path: Path) -> None:
    loaded(tmp_path)
    graph = tmp_path / "compiled" / "model.pt"
    graph.write_bytes(graph.read_bytes()[:1000])
    with pytest.raises(ArtifactDamaged, match="graph cannot be loaded"):
        CpuEngine().open(tmp_path / "compiled")


UP = "layers.1.mlp.up_proj.weight"


def cut(tensor: RankTensor) -> RankTensor:
    return RankTensor(tensor.dtype, tensor.shape, tensor.data[:-1])


def narrowed(tensor: RankTensor) -> RankTensor:
    return RankTensor("BF16", tensor.shape, tensor.data.astype(np.uint16))


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda up: {}, rf"the tensor {UP} of rank 2 is missing, and its graph takes F32 \[34, 72\]"),
        (lambda up: {UP: cut(up)}, rf"the tensor {UP} of rank 2 is F32 \[33, 72\], and its graph takes F32 \[34, 72\]"),
        (lambda up: {UP: narrowed(up)}, rf"{UP} of rank 2 is BF16 \[34, 72\], and its graph takes F32"),
    ],
)
def test_tensors_that_the_graph_does_not_take_are_reported_by_name(
    tmp_path: Path, change: Callable[[RankTensor], dict[str, RankTensor]], what: str
) -> None:
    write_model(tmp_path / "source")
    flags = {"tp_degree": 3, "torch_dtype": "float32"}
    plan, ranks = shard(tmp_path / "source", flags)
    ranks[2] = {**{n: t for n, t in ranks[2].items() if n != UP}, **change(ranks[2][UP])}
    with pytest.raises(ArtifactDamaged, match=what):
        compile_and_load(plan, flags, ranks, tmp_path / "compiled")


def test_a_missing_rank_is_reported(tmp_path: Path) -> None:
    write_model(tmp_path / "source")
    plan, ranks = shard(tmp_path / "source", {"tp_degree": 3})
    with pytest.raises(ArtifactDamaged, match="takes 3 ranks, and tensors of 2 came"):
        compile_and_load(plan, {"tp_degree": 3}, ranks[:2], tmp_path / "compiled")


@pytest.mark.parametrize(
    "change",
    [
        {"seq_len": 128}, {"max_context_length": 32}, {"batch_size": 2}, {"tp_degree": 1}, {"torch_dtype": "bfloat16"},
        {"fused_qkv": True}, {"mlp_kernel_enabled": True}, {"vocab_parallel": True},
    ],
)  # fmt: skip
def test_flags_that_shape_the_graph_are_in_its_inputs(tmp_path: Path, change: dict[str, Any]) -> None:
    write_model(tmp_path / "source")
    flags = {"tp_degree": 3, "torch_dtype": "float32", "seq_len": 64}
    engine = CpuEngine()

    def inputs(flags: dict[str, Any]) -> dict[str, object]:
        return engine.graph_inputs(shard(tmp_path / "source", flags)[0], flags)

    assert inputs({**flags, **change}) != inputs(flags)


def test_a_fine_tune_has_the_same_graph(tmp_path: Path) -> None:
    flags = {"tp_degree": 3}
    write_model(tmp_path / "one", seed=1)
    write_model(tmp_path / "other", seed=2)
    one, other = (llama_shape(shard(tmp_path / name, flags)[0], flags) for name in ("one", "other"))
    assert one == other


@pytest.mark.parametrize(
    ("config", "flags", "what"),
    [
        ({"hidden_act": "gelu"}, {}, "hidden_act 'gelu'"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 2.0}}, {}, "'yarn'"),
        ({}, {"local_ranks_size": 1}, "local_ranks_size is 1"),
        ({}, {"seq_len": 0}, "seq_len"),
    ],
)
def test_what_the_engine_does_not_compute_is_refused_by_name(
    tmp_path: Path, config: dict[str, Any], flags: dict[str, Any], what: str
) -> None:
    write_model(tmp_path / "source")
    edit_config(tmp_path / "source", **config)
    flags = {"tp_degree": 3, **flags}
    with pytest.raises(EngineRefused, match=what):
        llama_shape(shard(tmp_path / "source", flags)[0], flags)


def test_a_norm_with_zeros_cannot_be_folded_away(tmp_path: Path) -> None:
    flags = {"tp_degree": 3, **SKIP_GAMMA}
    write_model(tmp_path / "source")
    plan, ranks = shard(tmp_path / "source", flags)
    for rank in ranks:
        rank["layers.1.input_layernorm.weight"].data[7] = 0
    with pytest.raises(EngineRefused, match=r"layers\.1\.input_layernorm\.weight has elements that are zero"):
        compile_and_load(plan, flags, ranks, tmp_path / "compiled")


def test_an_image_without_the_neuron_sdk_says_so() -> None:
    with pytest.raises(NoEngine, match="no Neuron engine"):
        open_engine(WorkerConfig(namespace="n", name="m", uid="u", spec_hash="h", engine=Engine.NEURON))


def test_llama_three_frequencies_are_transformers(tmp_path: Path) -> None:
    from transformers import LlamaConfig as TheirConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    scaling = {
        "rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }  # fmt: skip
    sizes: dict[str, Any] = {
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 1,
        "num_attention_heads": 32,
    }
    theirs, _ = ROPE_INIT_FUNCTIONS["llama3"](TheirConfig(**sizes, rope_theta=5e5, rope_scaling=scaling), "cpu")
    config = LlamaConfig(**sizes, vocab_size=10, rope_theta=5e5, rope_scaling=scaling)
    assert torch.equal(rotary_frequencies(5e5, rope_scaling(config), 64), theirs)


def poisoned(directory: Path, name: str, value: float, dtype: torch.dtype = torch.float32) -> None:
    """A checkpoint with `value` in one element of a tensor."""
    write_model(directory, dtype=dtype)
    file = directory / "model.safetensors"
    tensors = load_file(file)
    tensors[name].view(-1)[5] = value
    save_file(tensors, file, metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("lm_head.weight", float("nan"), "1 are NaN and 0 infinite"),
        ("model.norm.weight", float("inf"), "are NaN|infinite"),
        ("model.layers.1.mlp.down_proj.weight", float("nan"), "131 are NaN"),
        ("model.layers.0.self_attn.k_proj.weight", float("-inf"), "131 are NaN"),
    ],
)
def test_a_warm_up_whose_logits_are_not_finite_fails(tmp_path: Path, name: str, value: float, message: str) -> None:
    poisoned(tmp_path / "model", name, value)
    flags = {"tp_degree": 3, "torch_dtype": "float32", "seq_len": 32}
    model = compile_and_load(*_sharded(tmp_path / "model", flags), tmp_path / "compiled")
    with pytest.raises(LogitsNotFinite, match=message):
        model.warm_up()


def test_an_overflow_of_float16_fails_too_and_sound_weights_pass(tmp_path: Path) -> None:
    flags = {"tp_degree": 3, "torch_dtype": "float16", "seq_len": 32}
    poisoned(tmp_path / "model", "model.embed_tokens.weight", 1e5)
    model = compile_and_load(*_sharded(tmp_path / "model", flags), tmp_path / "compiled")
    with pytest.raises(LogitsNotFinite):
        model.warm_up()
    poisoned(tmp_path / "sound", "model.embed_tokens.weight", 1.0)
    compile_and_load(*_sharded(tmp_path / "sound", flags), tmp_path / "other").warm_up()


@pytest.mark.parametrize("length", [1, 2, 9])
def test_a_warm_up_keeps_to_the_lengths_of_the_graph(tmp_path: Path, length: int) -> None:
    write_model(tmp_path / "model")
    flags = {"tp_degree": 3, "torch_dtype": "float32", "seq_len": length}
    compile_and_load(*_sharded(tmp_path / "model", flags), tmp_path / "compiled").warm_up()


def _sharded(source: Path, flags: dict[str, Any]) -> tuple[Any, dict[str, Any], Any]:
    plan, ranks = shard(source, flags)
    return plan, flags, ranks
