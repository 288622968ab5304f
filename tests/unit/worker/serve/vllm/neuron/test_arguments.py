"""vLLM's command line and environment, and the graphs that it cannot use."""

import json
from pathlib import Path
from typing import Any

import pytest

from neuronmodel_api import exits
from neuronmodel_api.config import Server, WorkerConfig
from neuronmodel_worker.engines.nxdi.settings import check_settings
from neuronmodel_worker.engines.nxdi.vllm_checks import check_graph
from neuronmodel_worker.failures import FlagsRefused
from neuronmodel_worker.serve.vllm.environment import vllm_environment
from neuronmodel_worker.serve.vllm.neuron.arguments import vllm_arguments
from neuronmodel_worker.serve.vllm.neuron.setup import plugin_environment
from neuronmodel_worker.serve.vllm.setup import check_type
from tests.unit.worker.conftest import Install
from tests.unit.worker.workers import Place

# That of the command for Llama 3.1 405B.
FLAGS: dict[str, Any] = {
    "tp_degree": 64, "batch_size": 1, "seq_len": 2048, "max_context_length": 2048, "torch_dtype": "bfloat16",
    "fused_qkv": True, "logical_nc_config": 2, "on_device_sampling_config": {"do_sample": False, "top_k": 1},
}  # fmt: skip


def arguments(served_name: str = "llama-405b", /, *extra_args: str, **flags: Any) -> list[str]:
    config = WorkerConfig(
        namespace="team",
        name="llama",
        uid="u",
        spec_hash="h",
        served_name=served_name,
        neuron_config=flags,
        extra_args=extra_args,
    )
    return vllm_arguments(config, Path("/source/llama"), 4711)


def value(given: list[str], name: str) -> str:
    assert given.count(name) == 1
    return given[given.index(name) + 1]


def additional(**flags: Any) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(value(arguments(**flags), "--additional-config"))
    return found


def test_a_graph_of_the_command_is_served_as_it_was_compiled() -> None:
    given = arguments(**FLAGS)
    assert given[:2] == ["serve", "/source/llama"]
    assert value(given, "--served-model-name") == "llama-405b"
    assert (value(given, "--host"), value(given, "--port")) == ("127.0.0.1", "4711")
    assert value(given, "--tensor-parallel-size") == "64"
    assert (value(given, "--max-model-len"), value(given, "--max-num-seqs")) == ("2048", "1")
    assert value(given, "--dtype") == "bfloat16"
    assert additional(**FLAGS) == {"override_neuron_config": FLAGS}


@pytest.mark.parametrize(
    "further",
    [
        ("--enable-auto-tool-choice", "--tool-call-parser", "llama3_json"),
        ("--max-logprobs=50", "--seed", "-1"),
        ("--chat-template-content-format=string", '--generation-config={"port": 1}'),
        ("--no-enable-log-requests", "-O3", "--tokenizer", "model"),
    ],
)
def test_further_arguments_are_the_last_as_they_are(further: tuple[str, ...]) -> None:
    assert arguments("llama", *further, **FLAGS)[-len(further) :] == list(further)


@pytest.mark.parametrize(
    ("further", "says"),
    [
        (
            ("--port", "80"),
            "--port is set already. Remove it; what to set instead is nothing: the worker itself answers",
        ),
        (("--max-model-len=4096",), "what to set instead is spec.compile.sequenceLength"),
        (("--max_model_len", "4096"), "spec.compile.sequenceLength"),
        (("--max-model", "4096"), "--max-model-len is set already"),
        (("--seed", "1", "-tp", "8"), "has -tp, and --tp is set already"),
        (("--no-enable-prefix-caching",), "is_prefix_caching in spec.compile.extra"),
        (("--additional-config.override_neuron_config", "{}"), "spec.compile.extra"),
        (("--api-key=sesame",), "spec.serving.apiKeySecretRef"),
        (("--data-parallel-size", "2"), "spec.serving.replicas"),
        (("llama3_json",), "begins with 'llama3_json', which is no flag"),
    ],
)
def test_an_argument_that_clashes_is_refused_by_name(further: tuple[str, ...], says: str) -> None:
    with pytest.raises(FlagsRefused) as refused:
        arguments("llama", *further, **FLAGS)
    assert says in str(refused.value)
    assert "sesame" not in str(refused.value)


def test_every_argument_of_ours_is_refused_as_a_further_one() -> None:
    given = [each for each in arguments(**FLAGS) if each.startswith("--")]
    for name in {each.partition("=")[0] for each in given} - {"--disable-uvicorn-access-log"}:
        with pytest.raises(FlagsRefused):
            arguments("llama", name, **FLAGS)


@pytest.mark.parametrize("name", ["--help", "-1"])
def test_a_name_that_looks_like_a_flag_is_none(name: str) -> None:
    assert f"--served-model-name={name}" in arguments(name, **FLAGS)


def test_a_contiguous_cache_has_a_block_for_each_sequence_and_no_caching_of_prefixes() -> None:
    given = arguments(**FLAGS | {"batch_size": 4, "is_continuous_batching": True, "ctx_batch_size": 1})
    assert "--no-enable-prefix-caching" in given
    assert value(given, "--num-gpu-blocks-override") == "4"
    assert "--block-size" not in given  # vLLM takes none beyond 256; the plugin sets the model's length


def test_what_is_absent_has_the_library_s_defaults() -> None:
    given = arguments()
    assert (value(given, "--max-model-len"), value(given, "--max-num-seqs")) == ("128", "1")
    assert value(given, "--tensor-parallel-size") == "1"
    assert "--dtype" not in given


def test_a_graph_that_does_not_sample_is_not_taken_for_one_that_does() -> None:
    assert additional(seq_len=64)["override_neuron_config"]["on_device_sampling_config"] is None


def test_a_prompt_limit_below_the_sequence_length_is_passed_on_so_that_longer_prompts_are_refused() -> None:
    found = additional(seq_len=256, max_context_length=64)
    assert found["max_prompt_length"] == 64
    assert found["override_neuron_config"]["max_context_length"] == 64


def test_blocks_leave_one_empty() -> None:
    given = arguments(seq_len=100, is_prefix_caching=True, is_block_kv_layout=True, pa_block_size=32, pa_num_blocks=5)
    assert "--enable-prefix-caching" in given
    assert (value(given, "--block-size"), value(given, "--num-gpu-blocks-override")) == ("32", "4")
    assert json.loads(value(given, "--additional-config"))["override_neuron_config"]["pa_num_blocks"] == 4


@pytest.mark.parametrize(
    ("flags", "what"),
    [
        ({"batch_size": 4}, "is_continuous_batching: true"),
        ({"batch_size": 4, "is_continuous_batching": True}, "reads 4 at once"),
        ({"batch_size": 4, "is_continuous_batching": True, "ctx_batch_size": 2}, "reads 2 at once"),
        ({"padding_side": "left"}, "padding_side is 'left'"),
        ({"speculation_length": 4}, "speculation_length cannot be served by vLLM"),
        ({"is_medusa": True}, "is_medusa"),
        ({"chunked_prefill_config": {"max_num_seqs": 4}}, "chunked_prefill_config"),
        ({"output_logits": True, "on_device_sampling_config": {"top_k": 1}}, "Remove output_logits"),
        ({"seq_len": 64, "context_encoding_buckets": [16, 32]}, "prompts of 64 .* hold 32 and 64"),
        ({"seq_len": 64, "token_generation_buckets": [32]}, "sequences of 64 .* hold 32 and 32"),
        ({"kv_cache_quant": True}, "kv_cache_quant cannot be served by vLLM: .* does not read back"),
        ({"kv_quant_config": {"direct_cast": True}}, "kv_quant_config cannot be served by vLLM"),
        ({"is_prefix_caching": True}, "needs pa_block_size and pa_num_blocks"),
        ({"is_block_kv_layout": True, "seq_len": 100, "pa_block_size": 32, "pa_num_blocks": 4}, "vLLM needs 5"),
    ],
)
def test_graphs_that_vllm_cannot_use_are_refused_by_name(flags: dict[str, Any], what: str) -> None:
    with pytest.raises(FlagsRefused, match=what):
        check_graph(flags)


def test_buckets_up_to_the_whole_lengths_are_taken() -> None:
    check_graph({"seq_len": 64, "max_context_length": 32, "context_encoding_buckets": [16, 32]})
    check_graph({"seq_len": 64, "token_generation_buckets": [64, 32]})
    check_graph({"output_logits": True})


def test_prepare_refuses_them_too_and_the_worker_s_own_server_takes_them(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NEURON_LOGICAL_NC_CONFIG", "NEURON_RT_VIRTUAL_CORE_SIZE"):
        monkeypatch.delenv(name, raising=False)
    check_settings({"batch_size": 4}, "llama", Server.OPENAI)
    with pytest.raises(FlagsRefused, match="is_continuous_batching: true"):
        check_settings({"batch_size": 4}, "llama", Server.VLLM)


def environment(**inherited: str) -> dict[str, str]:
    return vllm_environment(
        plugin_environment(inherited, Path("/view")),
        engine="Neuron",
        instruction=Path("/instruction"),
        key="secret",
        start_timeout_seconds=900,
    )


def test_vllm_finds_the_view_and_waits_as_long_as_a_start_may_take() -> None:
    made = environment(VLLM_API_KEY="of the pod", NEURON_COMPILED_ARTIFACTS="/elsewhere", HOME="/scratch/home")
    assert (made["NEURON_COMPILED_ARTIFACTS"], made["VLLM_API_KEY"]) == ("/view", "secret")
    assert made["VLLM_ENGINE_READY_TIMEOUT_S"] == "900"
    assert made["HOME"] == "/scratch/home"


def test_the_spec_s_environment_wins_where_it_may() -> None:
    assert environment(VLLM_ENGINE_READY_TIMEOUT_S="60")["VLLM_ENGINE_READY_TIMEOUT_S"] == "60"


@pytest.mark.parametrize(
    ("given", "made"), [("neuron", "neuron,neuronmodel"), ("", "neuronmodel"), ("neuronmodel", "neuronmodel")]
)
def test_a_list_of_plugins_gets_ours(given: str, made: str) -> None:
    assert environment(VLLM_PLUGINS=given)["VLLM_PLUGINS"] == made


def test_without_a_list_vllm_loads_all_plugins() -> None:
    assert "VLLM_PLUGINS" not in environment()


@pytest.fixture
def with_vllm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "vllm").touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))


def test_an_image_whose_vllm_is_another_says_so(place: Place, install: Install) -> None:
    install("vllm", "0.24.0")
    install("vllm-neuron", "0.24.0.1.1.0", "vllm_neuron")
    for command in ("prepare", "serve"):
        exit_failure = place.run(command, server="VLLM", engine="Neuron")
        assert exit_failure.report.failure is not None
        assert (exit_failure.report.failure.reason, exit_failure.code) == ("ServerNotSupported", exits.BAD_INPUT)
        assert "has vLLM Neuron 0.24.0.1.1.0 with vLLM 0.24.0" in exit_failure.report.failure.message
    assert not place.artifacts.exists() or not list(place.artifacts.iterdir())


@pytest.mark.usefixtures("with_vllm")
@pytest.mark.parametrize(
    "changes",
    [
        {"engine": "CPU", "seal": "Behind"},
        {"engine": "CPU", "extraArgs": ["--port=80"]},
        {"engine": "Neuron", "seal": "Behind"},
        {"engine": "Neuron", "neuronConfig": {"batch_size": 4}},
    ],
)
def test_what_vllm_cannot_serve_ends_the_worker_before_anything_is_opened(
    place: Place, install: Install, changes: dict[str, Any]
) -> None:
    install("vllm", "0.16.0")
    if changes["engine"] == "Neuron":
        install("vllm-neuron", "0.5.0")
    exit_failure = place.run("serve", server="VLLM", **changes)
    assert exit_failure.report.failure is not None
    assert (exit_failure.report.failure.reason, exit_failure.code) == ("FlagsRefused", exits.BAD_INPUT)
    assert [phase.name for phase in exit_failure.report.phases] == ["LibrariesImported"]


def test_an_image_without_vllm_says_so(place: Place, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    exit_failure = place.run("serve", server="VLLM", engine="Neuron")
    assert exit_failure.code == exits.NO_ENGINE
    assert exit_failure.report.failure is not None
    assert "no vLLM" in exit_failure.report.failure.message


@pytest.mark.usefixtures("with_vllm")
def test_a_worker_that_is_no_installed_package_says_so(
    place: Place, install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    install("vllm", "0.16.0")
    install("vllm-neuron", "0.5.0")
    monkeypatch.setattr("neuronmodel_worker.serve.vllm.serve.plugin_is_installed", lambda: False)
    exit_failure = place.run("serve", server="VLLM", engine="Neuron")
    assert exit_failure.report.failure is not None
    assert exit_failure.report.failure.reason == "ServerNotHooked"


@pytest.mark.parametrize("asked", [None, "llama"])
def test_the_type_of_config_json_is_vllm_s_too(asked: str | None) -> None:
    check_type({"model_type": "llama"}, asked)


def test_another_type_than_config_json_s_is_refused() -> None:
    with pytest.raises(FlagsRefused, match=r"spec\.model\.type is llama, .* config\.json says: mistral"):
        check_type({"model_type": "mistral"}, "llama")
