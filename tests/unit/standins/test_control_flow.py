"""The stand-in of NxD Inference does what the library's public source does, and is silent where it is."""

import json
import logging
import os
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.unit.standins.conftest import Build, Importer, answer, reference
from tests.unit.worker.engines import models

PROMPT = [5, 6, 7, 8]
KERNELS = {"fused_qkv": True, "qkv_kernel_enabled": True, "mlp_kernel_enabled": True}


def rank_files(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "weights").glob("*")) if (folder / "weights").exists() else []


# NeuronConfig.


def test_an_unknown_flag_is_warned_about_and_accepted(
    neuron: Importer, source: Path, build: Build, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        application = build(source, flag_of_nobody=1)
    assert "flag_of_nobody" in caplog.text
    assert not hasattr(application.neuron_config, "flag_of_nobody")


def test_the_environment_overrides_the_logical_cores_with_a_warning(
    neuron: Importer, source: Path, build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NEURON_LOGICAL_NC_CONFIG", "1")
    with pytest.warns(UserWarning, match="NEURON_LOGICAL_NC_CONFIG=1"):
        application = build(source, logical_nc_config=2)
    assert application.neuron_config.logical_nc_config == 1


def test_the_platform_is_asked_for_even_where_the_flags_say_all(
    neuron: Importer, source: Path, build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NEURON_PLATFORM_TARGET_OVERRIDE")
    with pytest.raises(RuntimeError, match="Unsupported Platform"):
        build(source, logical_nc_config=2)


@pytest.mark.usefixtures("devices")
def test_the_platform_is_found_on_a_machine_with_devices(
    neuron: Importer, source: Path, build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NEURON_PLATFORM_TARGET_OVERRIDE")
    assert build(source).neuron_config.logical_nc_config == 2


def test_sampling_on_the_device_turns_the_kernel_on_by_itself(neuron: Importer, source: Path, build: Build) -> None:
    sampling = build(source, on_device_sampling_config={"top_k": 1}).neuron_config.on_device_sampling_config
    assert (sampling.do_sample, sampling.top_k, sampling.dynamic, sampling.top_k_kernel_enabled) == (
        False,
        1,
        False,
        True,
    )


@pytest.mark.parametrize(
    ("flags", "error"),
    [
        ({"quantized": True}, AssertionError),
        ({"torch_dtype": "torch.bfloat16"}, AssertionError),
        ({"cast_type": "none"}, ValueError),
        ({"max_context_length": 128}, AssertionError),
        ({"mlp_cp_degree": 2}, ValueError),
        ({"cp_degree": 2}, ValueError),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else value.__name__,
)
def test_some_flags_are_refused(source: Path, build: Build, flags: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        build(source, **flags)


# Compiling and sharding.


@pytest.mark.parametrize(
    ("save", "skip", "files"), [(True, False, 3), (True, True, 0), (False, False, 0), (False, True, 0)]
)
def test_compile_calls_shard_weights_which_two_flags_decide(
    source: Path, build: Build, called: Any, tmp_path: Path, save: bool, skip: bool, files: int
) -> None:
    build(source, save_sharded_checkpoint=save, skip_sharding=skip).compile(str(tmp_path / "compiled"))
    assert (tmp_path / "compiled/model.pt").exists()
    assert len(rank_files(tmp_path / "compiled")) == files
    assert len(called("shard_weights")) == 1


def test_the_saved_configuration_names_its_checkpoint(source: Path, build: Build, tmp_path: Path) -> None:
    build(source, save_sharded_checkpoint=True, skip_sharding=True).compile(str(tmp_path / "compiled"))
    saved = json.loads((tmp_path / "compiled/neuron_config.json").read_text())
    assert saved["_name_or_path"] == str(source)
    assert (saved["neuron_config"]["tp_degree"], saved["neuron_config"]["torch_dtype"]) == (3, "float32")
    assert saved["neuron_config"]["save_sharded_checkpoint"] is True


def test_the_saved_configuration_comes_back_with_warnings(
    neuron: Importer, source: Path, build: Build, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    application = build(source)
    application.compile(str(tmp_path / "compiled"))
    with caplog.at_level(logging.WARNING):
        loaded = type(application).get_config_cls().load(str(tmp_path / "compiled"))
    assert loaded.neuron_config.tp_degree == 3
    assert "kv_cache_tiling" in caplog.text  # a derived field is an unknown flag


def test_ranks_are_numbered_globally(source: Path, build: Build, tmp_path: Path) -> None:
    build(source, save_sharded_checkpoint=True, start_rank_id=1, local_ranks_size=2).compile(str(tmp_path))
    assert rank_files(tmp_path) == ["tp1_sharded_checkpoint.safetensors", "tp2_sharded_checkpoint.safetensors"]


def test_old_rank_files_are_left_behind(source: Path, build: Build, tmp_path: Path) -> None:
    build(source, save_sharded_checkpoint=True, tp_degree=3).compile(str(tmp_path))
    build(source, save_sharded_checkpoint=True, tp_degree=1).compile(str(tmp_path))
    assert len(rank_files(tmp_path)) == 3


def test_a_tensor_that_the_checkpoint_lacks_is_left_out_without_a_word(
    source: Path, build: Build, tmp_path: Path
) -> None:
    tensors = load_file(source / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, source / "model.safetensors")
    build(source, save_sharded_checkpoint=True).compile(str(tmp_path / "compiled"))
    shard = load_file(tmp_path / "compiled/weights/tp0_sharded_checkpoint.safetensors")
    assert "layers.1.mlp.up_proj.weight" not in shard
    assert "layers.1.mlp.down_proj.weight" in shard


def test_the_loader_prefers_the_checkpoint_that_the_configuration_names(
    source: Path, build: Build, called: Any, tmp_path: Path
) -> None:
    application = build(source)
    application.model_path = str(tmp_path)
    application.checkpoint_loader_fn()
    assert called("checkpoint")[-1]["path"] == str(source)
    application.config._name_or_path = "/nowhere"
    with pytest.raises(FileNotFoundError):
        application.checkpoint_loader_fn()


# Loading.


@pytest.mark.usefixtures("devices")
@pytest.mark.parametrize("save", [True, False])
@pytest.mark.parametrize("flags", [{}, KERNELS], ids=["plain", "kernels"])
def test_answers_are_those_of_transformers(
    neuron: Importer, source: Path, build: Build, tmp_path: Path, save: bool, flags: dict[str, Any]
) -> None:
    build(source, save_sharded_checkpoint=save, **flags).compile(str(tmp_path / "compiled"))
    application = build(source, save_sharded_checkpoint=save, skip_sharding=save, **flags)
    application.load(str(tmp_path / "compiled"))
    assert answer(neuron, application, PROMPT, 12) == reference(source, PROMPT, 12)


@pytest.mark.usefixtures("devices")
def test_skip_sharding_alone_shards_again_at_load(source: Path, build: Build, called: Any, tmp_path: Path) -> None:
    build(source, skip_sharding=True).compile(str(tmp_path))
    build(source, skip_sharding=True).load(str(tmp_path))
    assert [call["serialize_path"] for call in called("shard_checkpoint")] == [None]


@pytest.mark.usefixtures("devices")
def test_only_a_missing_rank_file_fails(source: Path, build: Build, tmp_path: Path) -> None:
    build(source, save_sharded_checkpoint=True).compile(str(tmp_path))
    file = tmp_path / "weights/tp1_sharded_checkpoint.safetensors"
    wrong = load_file(file)
    wrong["layers.0.mlp.up_proj.weight"] = torch.zeros(34, 72, dtype=torch.float32)
    wrong["nobody.asked"] = torch.zeros(1)
    save_file(wrong, file)
    build(source, save_sharded_checkpoint=True).load(str(tmp_path), skip_warmup=True)
    file.unlink()
    with pytest.raises(FileNotFoundError):
        build(source, save_sharded_checkpoint=True).load(str(tmp_path), skip_warmup=True)


@pytest.mark.usefixtures("devices")
def test_load_passes_its_ranks_on_by_keyword(source: Path, build: Build, tmp_path: Path) -> None:
    build(source).compile(str(tmp_path))
    application, seen = build(source), []

    def load_weights(path: str, start_rank_id: int | None = None, local_ranks_size: int | None = None) -> None:
        seen.append((path, start_rank_id, local_ranks_size))

    application.load_weights = load_weights
    application.load(str(tmp_path), start_rank_id=0, local_ranks_size=3, skip_warmup=True)
    assert seen == [(f"{tmp_path}/", 0, 3)]
    assert application.is_loaded_to_neuron
    assert all(model.model is application.traced_model for model in application.models)
    application.load_weights = lambda path: None
    with pytest.raises(TypeError):
        application.load(str(tmp_path))


@pytest.mark.usefixtures("devices")
def test_a_second_model_in_the_process_gets_the_first_ones_transposed_weights(
    source: Path, build: Build, tmp_path: Path
) -> None:
    models.write_model(tmp_path / "other", seed=1)
    first = build(source, save_sharded_checkpoint=True, **KERNELS)
    second = build(tmp_path / "other", save_sharded_checkpoint=True, **KERNELS)
    shards = []
    for name, application in (("a", first), ("b", second)):
        application.compile(str(tmp_path / name))
        shards.append(load_file(tmp_path / name / "weights/tp0_sharded_checkpoint.safetensors"))
    transposed, plain = "layers.0.mlp.up_proj.weight", "embed_tokens.weight"
    assert torch.equal(shards[0][transposed], shards[1][transposed])
    assert not torch.equal(shards[0][plain], shards[1][plain])


def test_a_traced_model_is_not_opened_where_the_runtime_has_not_been_imported(
    source: Path, build: Build, tmp_path: Path
) -> None:
    build(source).compile(str(tmp_path))
    code = f"import torch; torch.jit.load({str(tmp_path / 'model.pt')!r})"
    import subprocess
    import sys

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "neuron::" in done.stderr


# Sampling.


@pytest.mark.usefixtures("devices")
def test_a_graph_that_samples_greedily_ignores_what_a_request_asks_for(
    neuron: Importer, source: Path, build: Build, tmp_path: Path
) -> None:
    flags = {"on_device_sampling_config": {"top_k": 1, "dynamic": False}}
    build(source, **flags).compile(str(tmp_path))
    application = build(source, **flags)
    application.load(str(tmp_path))
    from transformers import GenerationConfig

    adapter = neuron("neuronx_distributed_inference.utils.hf_adapter").HuggingFaceGenerationAdapter(application)
    input_ids = torch.tensor([PROMPT])
    settings = GenerationConfig(
        max_new_tokens=8, pad_token_id=2, eos_token_id=-1, do_sample=True, temperature=5.0, top_k=50
    )
    made = adapter.generate(input_ids, attention_mask=torch.ones_like(input_ids), generation_config=settings)
    assert made[0, 4:].tolist() == reference(source, PROMPT, 8)


@pytest.mark.usefixtures("devices")
def test_stopping_criteria_are_asked_after_each_token(
    neuron: Importer, source: Path, build: Build, tmp_path: Path
) -> None:
    from transformers import GenerationConfig, StoppingCriteriaList

    build(source).compile(str(tmp_path))
    application = build(source)
    application.load(str(tmp_path))
    adapter = neuron("neuronx_distributed_inference.utils.hf_adapter").HuggingFaceGenerationAdapter(application)
    lengths = []

    def stop(input_ids: torch.Tensor, scores: None, **_: Any) -> torch.Tensor:
        lengths.append(input_ids.shape[1])
        return torch.tensor([input_ids.shape[1] >= 7])

    input_ids = torch.tensor([PROMPT])
    adapter.generate(
        input_ids,
        attention_mask=torch.ones_like(input_ids),
        generation_config=GenerationConfig(max_new_tokens=20, pad_token_id=2, eos_token_id=-1, do_sample=False),
        stopping_criteria=StoppingCriteriaList([stop]),
    )
    assert lengths == [5, 6, 7]


# What is installed.


def test_the_packages_have_metadata_and_files(neuron: Importer) -> None:
    for name in ("neuronx-cc", "torch-neuronx", "neuronx-distributed", "neuronx-distributed-inference", "libneuronxla"):
        found = metadata.distribution(name)
        assert found.version
        files = [str(file) for file in found.files or []]
        assert any(file.endswith("__init__.py") for file in files)
        assert all(Path(str(found.locate_file(file))).exists() for file in files), files


@pytest.mark.usefixtures("devices")
def test_neuron_ls_lists_sixteen_devices_of_four_logical_cores(neuron: Importer) -> None:
    import subprocess

    found = json.loads(subprocess.check_output(["neuron-ls", "--json-output"], env=dict(os.environ)))
    assert [device["neuron_device"] for device in found] == list(range(16))
    assert {(device["nc_count"], device["logical_neuroncore_config"], device["memory_size"]) for device in found} == {
        (4, 2, 96 << 30)
    }
    assert sorted(found[0]["connected_to"]) == [1, 3, 4, 12]


def test_neuron_ls_fails_without_a_device(neuron: Importer) -> None:
    import subprocess

    assert subprocess.run(["neuron-ls", "--json-output"], capture_output=True, check=False).returncode == 1
