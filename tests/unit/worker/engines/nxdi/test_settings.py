"""The 405B command's flags land where `inference_demo` puts them, with its types."""

import copy
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from neuronmodel_api.config import Server
from neuronmodel_worker.engines import Sampling
from neuronmodel_worker.engines.nxdi.application import arguments, make_application
from neuronmodel_worker.engines.nxdi.batching import AnswerBatch, GenerationSettings, PendingAnswer
from neuronmodel_worker.engines.nxdi.neuron_failures import ModelTypeWithoutApplication
from neuronmodel_worker.engines.nxdi.settings import Purpose, check_settings, with_purpose
from neuronmodel_worker.failures import FlagsRefused
from tests.unit.standins.conftest import Importer
from tests.unit.worker.engines.models import write_model
from tests.unit.worker.engines.nxdi.conftest import COMMAND, MakeEngine

MOE_SWITCHES = (
    "use_index_calc_kernel", "moe_mask_padded_tokens", "early_expert_affinity_modulation", "fused_shared_experts",
    "shared_experts_sequence_parallel_enabled", "return_expert_index", "return_router_logits",
    "transpose_shared_experts_weights", "disable_normalize_top_k_affinities",
)  # fmt: skip
HEADS = {"num_attention_heads": 128, "num_key_value_heads": 8, "hidden_size": 512, "head_dim": 4, "vocab_size": 640}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    write_model(tmp_path / "source", dtype=torch.bfloat16, intermediate_size=768, num_hidden_layers=1, **HEADS)
    return tmp_path / "source"


def test_every_flag_of_the_command_lands_in_neuron_config(neuron: Importer, source: Path) -> None:
    found: Any = make_application("llama", str(source), with_purpose(COMMAND, Purpose.COMPILE)).neuron_config
    same = {name: value for name, value in COMMAND.items() if name not in ("torch_dtype", "on_device_sampling_config")}
    assert {name: getattr(found, name) for name in same} == same
    assert {name: type(getattr(found, name)) for name in same} == {name: type(value) for name, value in same.items()}
    assert found.torch_dtype is torch.bfloat16
    assert found.overrides_torch_dtype is True
    assert (found.save_sharded_checkpoint, found.skip_sharding) == (False, True)
    assert found.world_size == 64


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *dict.fromkeys(("moe_tp_degree", "moe_ep_degree"), 1).items(),
        *dict.fromkeys(MOE_SWITCHES, False).items(),
        ("glu_type", "glu"),
        ("hidden_act_scaling_factor", 1.0),
        ("hidden_act_bias", 0.0),
        ("blockwise_matmul_config", {}),
        ("normalize_top_k_affinities", True),
    ],
)
def test_fields_of_experts_at_their_defaults_are_accepted_for_a_model_without_experts(
    neuron: Importer, source: Path, name: str, value: Any
) -> None:
    """`inference_demo` gives some of them to every model, and the library warns of them and goes on."""
    fields = {**COMMAND, name: value}
    check_settings(fields, "llama", Server.OPENAI)
    make_application("llama", str(source), with_purpose(fields, Purpose.COMPILE))


def test_sampling_is_the_commands_own_where_the_spec_is_silent(neuron: Importer, source: Path) -> None:
    application = make_application("llama", str(source), with_purpose(COMMAND, Purpose.READ))
    sampling = application.neuron_config.on_device_sampling_config
    assert type(sampling).__name__ == "OnDeviceSamplingConfig"
    named = ("do_sample", "top_k", "top_p", "temperature", "dynamic", "top_k_kernel_enabled")
    assert [getattr(sampling, name) for name in named] == [False, 1, 1.0, 1.0, False, False]
    assert sampling.global_topk == 256


def test_pad_token_and_sampling_go_to_the_generation_config(make_engine: MakeEngine, source: Path) -> None:
    settings: GenerationSettings = make_engine(source, COMMAND, generation_config={"pad_token_id": 2})._settings
    config = AnswerBatch([PendingAnswer([5, 6], Sampling(temperature=0.0))], settings).generation_config(2)
    named = ("pad_token_id", "do_sample", "top_k", "top_p", "temperature", "dynamic", "max_length")
    assert [getattr(config, name) for name in named] == [2, False, 1, 1.0, 1.0, False, 2048]
    assert type(config).__name__ == "GenerationConfig"


@pytest.mark.parametrize(
    ("checkpoint", "spec", "padded"),
    [
        ({"pad_token_id": 7}, {}, 7),
        ({"pad_token_id": 7}, {"pad_token_id": 2}, 2),
        ({"pad_token_id": -1}, {}, 0),
        ({}, {}, 0),
    ],
)
def test_prompts_are_filled_with_what_the_spec_or_else_the_checkpoint_names(
    make_engine: MakeEngine, source: Path, checkpoint: dict[str, int], spec: dict[str, int], padded: int
) -> None:
    (source / "generation_config.json").write_text(json.dumps(checkpoint))
    settings: GenerationSettings = make_engine(source, COMMAND, generation_config=spec)._settings
    rows = [PendingAnswer([5, 6], Sampling(temperature=0.0)), PendingAnswer([5, 6, 8], Sampling(temperature=0.0))]
    assert AnswerBatch(rows, settings).padded()[0].tolist() == [[5, 6, padded], [5, 6, 8]]


def test_a_quantized_cache_is_configured_as_the_command_does(neuron: Importer, monkeypatch: pytest.MonkeyPatch) -> None:
    from enum import Enum
    from types import ModuleType, SimpleNamespace

    class QuantizationType(Enum):
        PER_TENSOR_SYMMETRIC = "per_tensor_symmetric"
        PER_CHANNEL_SYMMETRIC = "per_channel_symmetric"

    module: Any = ModuleType("neuronx_distributed.quantization.quantization_config")
    module.QuantizationType, module.KVQuantizationConfig = QuantizationType, SimpleNamespace
    monkeypatch.setitem(sys.modules, "neuronx_distributed.quantization", ModuleType("quantization"))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    given = arguments({"kv_cache_quant": True, "kv_quant_config": {"v_quant_method": "per_channel_symmetric"}})
    assert vars(given["kv_quant_config"]) == {
        "k_quant_method": QuantizationType.PER_TENSOR_SYMMETRIC,
        "v_quant_method": QuantizationType.PER_CHANNEL_SYMMETRIC,
        "quant_dtype": torch.float8_e4m3fn,
        "direct_cast": True,
    }


def test_a_type_that_the_library_does_not_know_is_refused_by_name(neuron: Importer, source: Path) -> None:
    with pytest.raises(ModelTypeWithoutApplication, match=r"no model of type 'phi9'; it has .*llama.*qwen3_moe"):
        make_application("phi9", str(source), {})


def test_what_the_library_asserts_is_a_refusal_of_flags(neuron: Importer, source: Path) -> None:
    with pytest.raises(FlagsRefused, match=r"does not accept these flags for this checkpoint \(AssertionError\)"):
        make_application("llama", str(source), {"quantized": True})


def test_a_folder_that_is_not_there_and_buckets_of_none_are_refusals_too(
    neuron: Importer, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config: Any = neuron("neuronx_distributed_inference.models.config")

    class Looks(config.NeuronConfig):  # type: ignore[misc]
        def __init__(self, **fields: Any) -> None:
            raise FileNotFoundError("ref_dir is not there")

    with pytest.raises(FlagsRefused, match="IndexError"):
        make_application("llama", str(source), {"context_encoding_buckets": []})
    application: Any = neuron("neuronx_distributed_inference.utils.constants").MODEL_TYPES["llama"]["causal-lm"]
    monkeypatch.setattr(application, "get_neuron_config_cls", lambda: Looks)
    with pytest.raises(FlagsRefused, match="ref_dir is not there"):
        make_application("llama", str(source), {})


def test_a_field_that_the_installed_release_pays_no_heed_to_is_refused(neuron: Importer, source: Path) -> None:
    """It only warns, as it does of what it saved itself."""
    with pytest.raises(FlagsRefused, match="installed NxD Inference has no field field_of_tomorrow"):
        make_application("llama", str(source), {"field_of_tomorrow": True, "tp_degree": 1})
    make_application("llama", str(source), {"tp_degree": 1})


def test_the_librarys_warning_of_other_fields_is_still_written(neuron: Importer, source: Path) -> None:
    program = (
        "from neuronmodel_worker.engines.nxdi.application import _refuse_unknown_fields\n"
        "import logging\n"
        "with _refuse_unknown_fields({}): logging.warning(\"Unexpected keyword arguments: {'tile_cc': 1}\")\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "tile_cc" in done.stderr


def test_the_library_gets_copies_that_it_may_sort_and_convert(neuron: Importer, source: Path) -> None:
    fields = {
        "enable_bucketing": True,
        "context_encoding_buckets": [64, 32],
        "router_config": {"dtype": "float32"},
        "tp_degree": 1,
    }
    before = copy.deepcopy(fields)
    application = make_application("mixtral", str(source), fields)
    assert application.neuron_config.context_encoding_buckets == [32, 64]
    assert application.neuron_config.router_config["dtype"] is torch.float32
    assert fields == before
