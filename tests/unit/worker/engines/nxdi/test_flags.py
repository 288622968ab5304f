"""Fields of NeuronConfig: each known with its type, refused by name where the library would only warn or guess."""

from typing import Any

import pytest

from neuronmodel_api.config import Server
from neuronmodel_worker.engines.nxdi.flag_checks import check_environment, check_flags, local_ranks, world_size
from neuronmodel_worker.engines.nxdi.settings import LOADING_FIELDS, Purpose, graph_fields, with_purpose
from neuronmodel_worker.failures import FlagsRefused
from neuronmodel_worker.neuron_config.fields import FIELDS, MOE_FIELDS, SAMPLING_FIELDS, check_fields
from tests.unit.standins.conftest import Importer
from tests.unit.worker.engines.nxdi.conftest import COMMAND

CONTINUOUS = {"is_continuous_batching": True, "ctx_batch_size": 1}


def test_the_commands_own_flags_are_taken() -> None:
    check_fields(COMMAND, "llama")
    check_flags(COMMAND, Server.OPENAI, "llama")


def test_every_field_of_the_library_is_known(neuron: Importer) -> None:
    config = neuron("neuronx_distributed_inference.models.config")
    derived = {
        "is_prefill_stage", "enable_token_tree", "is_chunked_prefill", "kv_cache_tiling", "tile_cc",
        "enable_long_context_mode",
    }  # fmt: skip
    assert vars(config.NeuronConfig()).keys() - derived - FIELDS.keys() == set()
    moe = vars(config.MoENeuronConfig()).keys() - vars(config.NeuronConfig()).keys()
    assert moe - MOE_FIELDS.keys() == {"normalize_top_k_affinities"}
    sampling = vars(config.OnDeviceSamplingConfig()).keys()
    assert sampling - {"on_device_sampling_config"} == SAMPLING_FIELDS.keys()


@pytest.mark.parametrize(
    ("fields", "what"),
    [
        ({"fused_qvk": True}, r"no field 'fused_qvk'.* Perhaps fused_qkv is meant"),
        ({"pad_token_id": 2}, "no field 'pad_token_id'"),
        ({"tp_degree": "64"}, "tp_degree='64' has to be an integer of at least 1"),
        ({"tp_degree": 0}, "tp_degree=0 has to be"),
        ({"batch_size": True}, "batch_size=True has to be an integer"),
        ({"fused_qkv": "true"}, "fused_qkv='true' has to be true or false"),
        ({"fused_qkv": 1}, "fused_qkv=1 has to be true or false"),
        ({"torch_dtype": "bf16"}, "torch_dtype='bf16' has to be one of bfloat16, float16, float32"),
        ({"padding_side": "both"}, "padding_side='both' has to be one of right, left"),
        ({"cast_type": "none"}, "cast_type='none'"),
        ({"context_encoding_buckets": 512}, "context_encoding_buckets=512 has to be a list of integers"),
        ({"context_encoding_buckets": []}, r"context_encoding_buckets=\[\] has to be .* of at least one"),
        ({"buckets": []}, r"buckets=\[\] has to be .* of at least one"),
        ({"token_generation_buckets": [512, "1k"]}, "token_generation_buckets=.* has to be a list of integers"),
        ({"quantize_clamp_bound": "inf"}, "quantize_clamp_bound='inf' has to be a number"),
        ({"lora_config": "adapter"}, "lora_config='adapter' has to be an object"),
        ({"modules_to_not_convert": ["lm_head", 1]}, "has to be a list of strings"),
        ({"on_device_sampling_config": {"topk": 1}}, r"OnDeviceSamplingConfig has no field 'topk'.* Perhaps top_k"),
        ({"on_device_sampling_config": {"top_k": 1.5}}, r"on_device_sampling_config\.top_k=1\.5 has to be an integer"),
        ({"moe_tp_degree": 4}, "moe_tp_degree=4 is of models with experts, and this is a llama"),
        ({"fused_shared_experts": True}, "fused_shared_experts=True is of models with experts"),
    ],
)
def test_unknown_and_ill_typed_fields_are_refused_by_name(fields: dict[str, Any], what: str) -> None:
    with pytest.raises(FlagsRefused, match=what):
        check_fields(fields, "llama")


def test_fields_of_experts_are_for_models_with_experts() -> None:
    check_fields({"moe_tp_degree": 4, "glu_type": "glu", "blockwise_matmul_config": {"block_size": 256}}, "mixtral")
    check_fields({"moe_tp_degree": 1, "disable_normalize_top_k_affinities": False}, "llama")


def test_an_absent_field_may_be_null() -> None:
    check_fields({"attn_kernel_enabled": None, "world_size": None, "buckets": None}, "llama")
    assert "attn_kernel_enabled" not in with_purpose({"attn_kernel_enabled": None}, Purpose.COMPILE)


@pytest.mark.parametrize(
    ("fields", "what"),
    [
        ({"max_context_length": 4096, "seq_len": 2048}, "max_context_length=4096 is more than seq_len=2048"),
        ({"max_context_length": 256}, "max_context_length=256 is more than seq_len=128"),
        ({"max_length": 256, "seq_len": 128}, "max_length=256 is more than seq_len=128"),
        ({"max_context_length": 100, "max_length": 64}, "max_context_length=100 is more than max_length=64"),
        ({"tp_degree": 64, "world_size": 32}, "world_size=32 contradicts the degrees, which make 64"),
        ({"tp_degree": 8, "start_rank_id": 6, "local_ranks_size": 4}, "reach rank 9, and there are ranks 0 to 7"),
        ({"logical_neuron_cores": 1, "logical_nc_config": 2}, "logical_neuron_cores=1 is the older name"),
        ({"quantized": True}, "quantized=True needs quantized_checkpoints_path"),
        ({"is_medusa": True, "num_medusa_heads": 4}, "needs medusa_speculation_length"),
        ({"enable_fused_speculation": True, "speculation_length": 4}, "needs a draft model"),
        ({"speculation_length": 4}, "speculation_length=4 needs a draft model"),
        ({"is_eagle3": True}, "is_eagle3=True needs a draft model"),
        ({"qkv_cte_nki_kernel_fuse_rope": True, "qkv_kernel_enabled": True}, "needs qkv_nki_kernel_enabled"),
        ({"attn_block_tkg_nki_kernel_enabled": True}, "needs qkv_kernel_enabled or qkv_nki_kernel_enabled"),
        ({"attn_block_tkg_nki_kernel_cache_update": True}, "needs attn_block_tkg_nki_kernel_enabled"),
        ({"rmsnorm_quantize_kernel_enabled": True}, "needs quantized_mlp_kernel_enabled"),
        ({"k_cache_transposed": True, "flash_decoding_enabled": True}, "do not go together"),
        ({"attention_dtype": "float32"}, "attention_dtype=float32 is not torch_dtype=bfloat16"),
        ({"tp_degree": 8, "cp_degree": 3}, "tp_degree=8 is not a multiple of cp_degree=3"),
        ({"mlp_cp_degree": 2}, "mlp_cp_degree=2 needs sequence_parallel_enabled"),
        ({"strided_context_parallel_kernel_enabled": True}, "needs a cp_degree above 1"),
        ({"tp_degree": 8, "attention_dp_degree": 2, "batch_size": 2}, "needs is_continuous_batching"),
        (
            {"tp_degree": 8, "attention_dp_degree": 2, "batch_size": 3, **CONTINUOUS},
            "has to divide the batch of 3",
        ),
        ({"batch_size": 4, "is_continuous_batching": True}, "this graph reads 4 at once"),
        ({"batch_size": 4, **CONTINUOUS, "ctx_batch_size": 2}, "this graph reads 2 at once"),
        ({"batch_size": 4, **CONTINUOUS, "max_batch_size": 8}, "max_batch_size=8 is not batch_size=4"),
        ({"batch_size": 4, "tkg_batch_size": 2}, "tkg_batch_size=2 is not batch_size=4"),
        ({"batch_size": 4, "ctx_batch_size": 1}, "all prompts would be written to the first places"),
        ({"async_mode": True}, "async_mode=True needs on_device_sampling_config"),
        ({"attn_block_cte_nki_kernel_enabled": True, "qkv_kernel_enabled": True}, "needs qkv_nki_kernel_enabled"),
        (
            {"quantized": True, "quantized_checkpoints_path": "/q", "qkv_kernel_enabled": True},
            "quantized=True with qkv_kernel_enabled=True needs modules_to_not_convert",
        ),
        ({"context_encoding_buckets": [64, 256], "enable_bucketing": True}, "one of 256, more than max_context_length"),
        ({"token_generation_buckets": [64]}, r"token_generation_buckets=\[64\] needs enable_bucketing"),
        ({"is_block_kv_layout": True}, "spec.serving.server: VLLM"),
        ({"padding_side": "left"}, "padding_side='left' gives wrong answers"),
        ({"on_cpu": True}, "use engine: CPU"),
    ],
)
def test_conflicting_flags_are_refused_by_name(fields: dict[str, Any], what: str) -> None:
    with pytest.raises(FlagsRefused, match=what):
        check_flags(fields, Server.OPENAI, "llama")


def test_what_vllm_feeds_is_taken_where_vllm_serves() -> None:
    check_flags({"is_block_kv_layout": True, "is_prefix_caching": True}, Server.VLLM, "llama")
    check_flags({"batch_size": 4, "max_batch_size": 4, "tkg_batch_size": 4, **CONTINUOUS}, Server.VLLM, "llama")


@pytest.mark.parametrize(
    ("given", "missing"), [("is_block_kv_layout", "is_prefix_caching"), ("is_prefix_caching", "is_block_kv_layout")]
)
def test_a_cache_in_blocks_is_one_for_prefixes(given: str, missing: str) -> None:
    """Else vLLM would feed it as the contiguous one that it takes it for."""
    with pytest.raises(FlagsRefused, match=f"{given}=True needs {missing}"):
        check_flags({given: True}, Server.VLLM, "llama")


def test_partial_ranks_are_no_conflict() -> None:
    fields = {"tp_degree": 8, "start_rank_id": 2, "local_ranks_size": 4}
    check_flags(fields, Server.OPENAI, "llama")
    assert local_ranks(fields) == range(2, 6)
    assert world_size({"tp_degree": 8, "pp_degree": 2}) == 16


def test_a_rewritten_layout_is_refused() -> None:
    with pytest.raises(FlagsRefused, match="NXD_LAYOUT_TRANSFORMATION_OPTIONS is set"):
        check_environment({"NXD_LAYOUT_TRANSFORMATION_OPTIONS": ""}, {})


@pytest.mark.parametrize("name", ["NEURON_LOGICAL_NC_CONFIG", "NEURON_RT_VIRTUAL_CORE_SIZE"])
def test_an_environment_that_disagrees_about_logical_cores_is_refused(name: str) -> None:
    with pytest.raises(FlagsRefused, match=f"{name}=1 in the environment disagrees with logical_nc_config=2"):
        check_environment({name: "1"}, {"logical_nc_config": 2})
    check_environment({name: "2"}, {"logical_nc_config": 2})
    check_environment({name: "1"}, {})


@pytest.mark.parametrize(
    ("purpose", "saves", "skips"),
    [
        (Purpose.COMPILE, False, True),
        (Purpose.SHARD, True, False),
        (Purpose.READ, True, True),
        (Purpose.LOAD, False, False),
    ],
)
def test_the_strategys_fields_are_the_workers_own(purpose: Purpose, saves: bool, skips: bool) -> None:
    given = with_purpose({**COMMAND, "save_sharded_checkpoint": not saves, "skip_sharding": not skips}, purpose)
    assert (given["save_sharded_checkpoint"], given["skip_sharding"]) == (saves, skips)


def test_the_graph_has_every_field_but_those_of_loading() -> None:
    fields = {**COMMAND, "save_sharded_checkpoint": True, "skip_warmup": True, "quantized_checkpoints_path": "/q"}
    assert graph_fields(fields).keys() == COMMAND.keys()
    assert not graph_fields(fields).keys() & LOADING_FIELDS
