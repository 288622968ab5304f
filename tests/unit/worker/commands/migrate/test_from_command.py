"""`neuronmodel from-command`: a command line of NxD Inference as the NeuronModel that does the same."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from neuronmodel_api import exits
from neuronmodel_api.spec import NeuronModelSpec
from neuronmodel_operator.manifests import instance_type
from neuronmodel_operator.manifests import neuron_config as flags
from neuronmodel_worker.commands.migrate.given_flags import read_flags
from neuronmodel_worker.commands.migrate.neuronmodel import convert
from neuronmodel_worker.commands.migrate.not_understood import NotUnderstood
from neuronmodel_worker.commands.migrate.options import Choices
from neuronmodel_worker.commands.migrate.shell_script import invocation_of, read_invocation
from neuronmodel_worker.failures import UsageInvalid
from tests.nxdi_flags import COMMAND_OF_405B
from tests.paths import PROJECT
from tests.unit.worker.commands.commands import here, neuronmodel
from tests.unit.worker.commands.migrate.inference_demo import SMALLEST, Result, converted, with_flags

COMMANDS = PROJECT / "tests" / "commands"
ON_COMPILE = (COMMANDS / "llama-3.1-405b-shard-on-compile.sh").read_text()
ON_LOAD = (COMMANDS / "llama-3.1-405b-shard-on-load.sh").read_text()


def neuron_config(result: Result) -> dict[str, object]:
    """What the operator makes of it, but for what the strategy decides."""
    return flags.neuron_config(NeuronModelSpec.model_validate(result.spec))


@pytest.mark.parametrize("strategy", ["compile", "load"])
def test_the_examples_are_what_the_commands_of_the_guide_become(strategy: str) -> None:
    command = COMMANDS / f"llama-3.1-405b-shard-on-{strategy}.sh"
    source = "hf://meta-llama/Llama-3.1-405B-Instruct"
    ended = here("from-command", "--storage-class", "fast", "--source", source, command)
    assert ended.code == exits.OK
    assert ended.out == without_token(f"neuron-llama-3.1-405b-shard-on-{strategy}.yaml")


def without_token(example: str) -> str:
    """The one edit of an example: a line that names the Secret, with its comment."""
    token = re.compile(r"^( *)# Added by hand: .*\n(?:\1# .*\n)*\1tokenSecretRef: \{.*\}\n", re.MULTILINE)
    text, edits = token.subn("", (PROJECT / "examples" / example).read_text())
    assert edits == 1
    return text


def test_the_example_from_a_claim_is_what_a_command_of_the_guide_becomes() -> None:
    command = COMMANDS / "llama-3.1-405b-shard-on-compile.sh"
    ended = here("from-command", "--storage-class", "fast", "--claim", "models", command)
    assert ended.code == exits.OK
    assert ended.out == (PROJECT / "examples" / "neuron-llama-3.1-405b-from-claim.yaml").read_text()


def test_the_commands_differ_in_their_strategy_and_its_volume_alone() -> None:
    on_compile, on_load = converted(ON_COMPILE).spec, converted(ON_LOAD).spec
    assert on_compile.pop("sharding") == {"strategy": "ShardOnCompile"}
    assert on_load.pop("sharding") == {"strategy": "ShardOnLoad"}
    assert on_compile.pop("artifacts") == {"template": {"size": "1Ti"}}
    assert on_load.pop("artifacts") == {"template": {"size": "32Gi"}}
    assert on_compile == on_load


def test_every_flag_of_the_guides_command_reaches_neuron_config() -> None:
    assert neuron_config(converted(ON_COMPILE)) == COMMAND_OF_405B
    spec = NeuronModelSpec.model_validate(converted(ON_COMPILE).spec)
    assert flags.generation_config(spec) == {"pad_token_id": 2}
    assert instance_type.num_devices(spec) == 16


def test_what_is_left_of_the_guides_command_is_named() -> None:
    result = converted(ON_COMPILE)
    assert list(result.left_out) == ["--compiled-model-path", "--prompt", "2>&1 | tee log"]
    assert result.env == {"NEURON_RT_EXEC_TIMEOUT": "600"}


@pytest.mark.parametrize(
    ("given", "strategy", "comment"),
    [
        (["--save-sharded-checkpoint"], "ShardOnCompile", "written once"),
        (["--save-sharded-checkpoint", "--skip-sharding"], "ShardOnCompile", "What is sealed is found"),
        ([], "ShardOnLoad", "No --save-sharded-checkpoint"),
        (["--skip-sharding"], "ShardOnLoad", "skips nothing"),
    ],
)
def test_the_strategy_is_the_commands_with_its_reason(given: list[str], strategy: str, comment: str) -> None:
    result = with_flags(*given)
    assert result.spec["sharding"] == {"strategy": strategy}
    assert comment in result.unwrapped


def test_skip_sharding_alone_is_warned_of() -> None:
    assert "shards at every load" in with_flags("--skip-sharding").left_out["--skip-sharding"]
    assert "--skip-sharding" not in with_flags("--skip-sharding", "--save-sharded-checkpoint").left_out


# The model's folder


def test_without_a_claim_the_model_is_a_folder_of_the_node() -> None:
    assert with_flags().spec["model"]["source"] == {"hostPath": {"path": "/models/Llama-3.1-8B"}}


@pytest.mark.parametrize(
    ("path", "choices", "inside"),
    [
        ("/models/Llama-3.1-8B/", {}, "Llama-3.1-8B"),
        ("Llama-3.1-8B", {}, "Llama-3.1-8B"),
        ("/data/models/llama/8B", {"claim_root": "/data"}, "models/llama/8B"),
        ("/data//models/8B", {"claim_root": "/data/"}, "models/8B"),
        ("/data", {"claim_root": "/data"}, None),
    ],
)
def test_the_path_in_a_claim_is_seen_from_its_root(path: str, choices: dict[str, str], inside: str | None) -> None:
    command = f"inference_demo --model-type llama --task-type causal-lm run --model-path {path}"
    source = converted(command, claim="models", name="m", **choices).spec["model"]["source"]
    expected = {"claimName": "models"} | ({"path": inside} if inside else {})
    assert source == {"persistentVolumeClaim": expected}


@pytest.mark.parametrize("path", ["Llama-3.1-8B", "/models/../Llama"])
def test_a_path_that_names_no_folder_of_a_node_is_refused(path: str) -> None:
    with pytest.raises(NotUnderstood, match="Line 1: --model-path is"):
        converted(f"inference_demo --model-type llama --task-type causal-lm run --model-path {path}")


def test_a_path_outside_of_the_claims_root_is_refused() -> None:
    with pytest.raises(UsageInvalid, match="is not within it"):
        with_flags(claim="models", claim_root="/elsewhere")


COMMIT = "1e7e" * 10


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("hf://meta-llama/Llama-3.1-8B", {"repository": "meta-llama/Llama-3.1-8B"}),
        ("hf://meta-llama/Llama-3.1-8B@main", {"repository": "meta-llama/Llama-3.1-8B"}),
        ("hf://gpt2@refs/pr/12", {"repository": "gpt2", "revision": "refs/pr/12"}),
        (f"hf://org/name@{COMMIT}", {"repository": "org/name", "revision": COMMIT}),
    ],
)
def test_a_repository_takes_the_path_s_place(source: str, expected: dict[str, str]) -> None:
    result = with_flags(source=source)
    assert result.spec["model"]["source"] == {"huggingFace": expected}
    assert "In place of --model-path /models/Llama-3.1-8B." in result.unwrapped
    assert "tokenSecretRef: {name: …, key: …}" in result.unwrapped
    spec = NeuronModelSpec.model_validate(result.spec)
    assert spec.model.source.hugging_face
    assert spec.model.source.hugging_face.repository == expected["repository"]


@pytest.mark.parametrize(
    ("before", "more"),
    [
        ("", {}),
        ("export AWS_REGION=eu-west-1", {"region": "eu-west-1"}),
        (
            "export AWS_DEFAULT_REGION=eu-west-1 AWS_ENDPOINT_URL=https://s3.example.org",
            {"region": "eu-west-1", "endpoint": "https://s3.example.org"},
        ),
    ],
)
def test_a_bucket_takes_the_path_s_place(before: str, more: dict[str, str]) -> None:
    result = with_flags(before=before, source="s3://models/meta/Llama-3.1-70B/")
    assert result.spec["model"]["source"] == {"s3": {"uri": "s3://models/meta/Llama-3.1-70B", **more}}
    assert yaml.safe_load(result.text)["metadata"]["name"] == "llama-3-1-70b"
    assert "In place of --model-path /models/Llama-3.1-8B." in result.unwrapped
    assert "credentialsSecretRef: {name: …}" in result.unwrapped
    spec = NeuronModelSpec.model_validate(result.spec)
    assert spec.model.source.s3
    assert spec.model.source.s3.uri == "s3://models/meta/Llama-3.1-70B"


@pytest.mark.parametrize("path", ["~/models/$MODEL", "$(pwd)/model", "../model", "meta-llama/Llama-3.1-8B"])
def test_with_a_repository_nothing_of_the_path_is_needed(path: str) -> None:
    command = "inference_demo --model-type llama --task-type causal-lm run --save-sharded-checkpoint"
    result = converted(f"{command} --model-path {path}", source="hf://meta-llama/Llama-3.1-70B")
    assert yaml.safe_load(result.text)["metadata"]["name"] == "llama-3-1-70b"
    assert result.spec["artifacts"]["template"] == {"size": "192Gi"}


@pytest.mark.parametrize(
    ("path", "suggested"),
    [
        ("meta-llama/Llama-3.1-8B", "hf://meta-llama/Llama-3.1-8B."),
        ("Llama-3.1-8B", "hf://ORGANISATION/NAME."),
        ("models/meta/llama", "hf://ORGANISATION/NAME."),
    ],
)
def test_a_path_that_may_be_a_repository_s_name_is_refused_with_how_to_say_so(path: str, suggested: str) -> None:
    with pytest.raises(NotUnderstood, match=f"with --source {suggested}$"):
        converted(f"inference_demo --model-type llama --task-type causal-lm run --model-path {path}")


@pytest.mark.parametrize(
    ("source", "printed"), [("hf://org/name", "repository: org/name"), ("s3://models/llama", "s3://models/llama")]
)
def test_a_network_source_is_printed_without_anything_that_reads_a_network(source: str, printed: str) -> None:
    program = (
        "import sys; from neuronmodel_worker.cli import main; code = main(sys.argv[1:]); "
        "print(code, *[name for name in sys.modules if name.split('.')[0] in ('obstore', 'http') "
        "or 'sources.remote' in name])"
    )
    command = [sys.executable, "-c", program, "from-command", "--source", source, "-"]
    ended = subprocess.run(command, cwd=PROJECT, input=ON_LOAD, capture_output=True, text=True, check=True)
    assert printed in ended.stdout
    assert ended.stdout.splitlines()[-1] == "0"


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("Llama-3.1-405B-Instruct", "llama-3-1-405b-instruct"),
        ("2B_model", "m-2b-model"),
        ("x" * 39 + "-8B", "x" * 39),
    ],
)
def test_the_name_is_made_of_the_models_folder(folder: str, name: str) -> None:
    command = f"inference_demo --model-type llama --task-type causal-lm run --model-path /models/{folder}"
    assert yaml.safe_load(converted(command).text)["metadata"]["name"] == name


def test_a_folder_without_letters_makes_no_name() -> None:
    with pytest.raises(UsageInvalid, match="Give one with --name"):
        converted("inference_demo --model-type llama --task-type causal-lm run --model-path /models/---")


# Cores


@pytest.mark.parametrize(
    ("before", "given", "cores"),
    [
        ("export NEURON_RT_VIRTUAL_CORE_SIZE=1", [], 1),
        ("export NEURON_LOGICAL_NC_CONFIG=1", [], 1),
        ("", ["--logical-nc-config 1"], 1),
        ("", ["--logical-neuron-cores 2"], 2),
        ("export NEURON_RT_VIRTUAL_CORE_SIZE=2", ["--logical-nc-config 2"], 2),
        ("", [], None),
    ],
)
def test_logical_cores_come_from_the_environment_or_a_flag(before: str, given: list[str], cores: int | None) -> None:
    assert with_flags(*given, before=before).spec["parallelism"].get("logicalNeuronCoreConfig") == cores


@pytest.mark.parametrize(
    ("before", "given"),
    [
        ("export NEURON_RT_VIRTUAL_CORE_SIZE=2", "--logical-nc-config 1"),
        ("export NEURON_RT_VIRTUAL_CORE_SIZE=2 NEURON_LOGICAL_NC_CONFIG=1", ""),
        ("", "--logical-neuron-cores 1 --logical-nc-config 2"),
        ("export NEURON_RT_VIRTUAL_CORE_SIZE=3", ""),
        ("export NEURON_RT_VIRTUAL_CORE_SIZE=two", ""),
        ("export NEURON_RT_NUM_CORES=3", "--tp-degree 4"),
        ("", "--tp-degree 4 --local_ranks_size 8"),
        ("", "--tp-degree 4 --start_rank_id 4 --local_ranks_size 1"),
        ("", "--tp-degree 4 --world-size 8"),
        ("", "--tp-degree 4 --pp-degree 2"),
        ("", "--tp-degree 0"),
        ("", "--seq-len 128 --max-context-length 256"),
        ("", "--top-k 1 --top-k 2"),
        ("", "--attn-kernel-enabled --no-attn-kernel-enabled"),
        ("", "--quantized"),
        ("", "--enable-prefix-caching --pa-block-size 32 --pa-num-blocks 9"),
        ("", "--enable-prefix-caching --enable-block-kv-layout"),
        ("", "--async-mode"),
        ("", "--enable-prefix-caching --enable-block-kv-layout --pa-block-size 32 --pa-num-blocks 9 --batch-size 2"),
        ("", "--on-cpu --cp-degree 2 --tp-degree 4"),
    ],
)
def test_conflicting_arguments_are_refused_with_their_line(before: str, given: str) -> None:
    with pytest.raises(NotUnderstood, match=r"^Line [12]: "):
        with_flags(given, before=before)


def test_more_cores_than_ranks_are_named() -> None:
    result = with_flags("--tp-degree 4", before="export NEURON_RT_NUM_CORES=64")
    assert result.left_out == {"NEURON_RT_NUM_CORES": "a worker is given as many cores as it has ranks, 4"}


def test_a_part_of_the_ranks_is_prepared_alone() -> None:
    spec = with_flags("--tp-degree 8 --start_rank_id 2 --local_ranks_size 4").spec
    assert spec["parallelism"] == {"tensorParallelDegree": 8, "startRank": 2, "localRanks": 4}
    assert spec["suspend"] is True


def test_compile_only_is_a_suspended_model() -> None:
    assert with_flags("--compile-only").spec["suspend"] is True
    assert "suspend" not in with_flags().spec


# The environment


def test_exports_go_to_the_worker_unless_they_are_the_operators_own() -> None:
    exports = {
        "NEURON_RT_EXEC_TIMEOUT": "900",
        "NEURON_CC_FLAGS": "--model-type transformer",
        "BASE_COMPILE_WORK_DIR": "/tmp/work",
        "HF_TOKEN": "hf_secret",
        "PATH": "/opt/bin",
        "NEURONMODEL_CONFIG": "{}",
        "NXD_LAYOUT_TRANSFORMATION_OPTIONS": "1",
        "WITH_DOLLARS": "a $(B) c",
    }
    result = with_flags(before="\n".join(f"export {name}='{value}'" for name, value in exports.items()))
    assert result.env == {
        "NEURON_RT_EXEC_TIMEOUT": "900",
        "NEURON_CC_FLAGS": "--model-type transformer",
        "WITH_DOLLARS": "a $$(B) c",
    }
    assert list(result.env) == [name for name in exports if name in result.env]
    assert list(result.left_out) == [name for name in exports if name not in result.env]
    assert "hf_secret" not in result.text


@pytest.mark.parametrize(
    "name", ["HF_TOKEN", "hf_token", "DB_PASS", "MY_PWD", "apikey", "AWS_ACCESS_KEY_ID", "PASSWD", "LOGIN"]
)
def test_a_secret_is_named_and_never_shown(name: str) -> None:
    secret = "hf_" + "Abc123" * 5
    result = with_flags(before=f"export {name}={secret}")
    assert "valueFrom.secretKeyRef" in result.left_out[name]
    assert secret not in result.text


@pytest.mark.parametrize("name", ["TOKENIZERS_PARALLELISM", "MAX_TOKENS", "PWD", "MONKEYS", "NEURON_RT_EXEC_TIMEOUT"])
def test_what_only_sounds_like_a_secret_is_carried(name: str) -> None:
    assert with_flags(before=f"export {name}=7").env == {name: "7"}


def test_variables_that_are_not_exported_are_not_the_commands() -> None:
    result = with_flags(before="NEURON_RT_EXEC_TIMEOUT=900\nMINE=1")
    assert result.env == {}
    assert result.left_out == {"NEURON_RT_EXEC_TIMEOUT": "it is not exported, so the command does not see it"}


def test_what_the_command_sets_itself_for_8_bit_floats_is_set() -> None:
    assert with_flags("--kv-cache-quant").env == {"XLA_HANDLE_SPECIAL_SCALAR": "1", "UNSAFE_FP8FNCAST": "1"}


# Sampling


def test_sampling_is_compiled_in_where_the_command_does_so() -> None:
    flags_given = (
        "--on-device-sampling --do-sample --top-k -1 --top-p 0.9 --temperature 1e-5 --global-topk 64 --dynamic"
    )
    assert with_flags(flags_given).spec["compile"]["onDeviceSampling"] == {
        "doSample": True,
        "topK": -1,
        "topP": "0.9",
        "temperature": "0.00001",
        "dynamic": True,
        "globalTopK": 64,
    }
    assert with_flags("--on-device-sampling").spec["compile"]["onDeviceSampling"] == {}


def test_without_on_device_sampling_requests_choose() -> None:
    result = with_flags("--top-k 5 --temperature 0.5")
    assert "onDeviceSampling" not in result.spec["compile"]
    assert set(result.left_out) == {"--top-k", "--temperature"}


@pytest.mark.parametrize("given", ["--top-p 0", "--top-p 1.5", "--temperature 0", "--temperature inf"])
def test_sampling_that_cannot_be_compiled_in_is_refused(given: str) -> None:
    with pytest.raises(NotUnderstood, match="has to be above 0"):
        with_flags("--on-device-sampling", given)


def test_padding_is_the_commands_where_it_is_not_given() -> None:
    assert with_flags().spec["compile"]["padTokenID"] == 0


# Weights, server, engine


@pytest.mark.parametrize(
    ("given", "model_type", "named"),
    [
        ("--quantized --quantized-checkpoints-path /quantized", "llama", "quantized and quantized_checkpoints_path"),
        ("--tp-degree 4 --cp-degree 2", "llama", "cp_degree"),
        ("--enable-lora", "llama", "lora_config"),
        ("--moe-ep-degree 2", "qwen3_moe", "moe_ep_degree"),
        ("", "dbrx", "models of type dbrx"),
    ],
)
def test_what_has_no_layout_is_left_to_nxd_inference(given: str, model_type: str, named: str) -> None:
    result = with_flags(given, model_type=model_type)
    assert result.spec["sharding"]["weights"] == "Native"
    assert f"there is no layout of ours for {named}." in result.unwrapped


@pytest.mark.parametrize(
    "given", ["--tp-degree 4 --world-size 4", "--cp-degree 1", "--pa-block-size 512 --seq-len 512"]
)
def test_fields_at_their_defaults_need_no_other_layout(given: str) -> None:
    assert "weights" not in with_flags(given).spec["sharding"]


def test_what_vllm_alone_can_feed_makes_it_the_server() -> None:
    caching = with_flags("--enable-prefix-caching --enable-block-kv-layout --pa-block-size 32 --pa-num-blocks 5")
    assert caching.spec["serving"] == {"server": "VLLM"}
    assert "serving" not in with_flags().spec


def test_on_cpu_is_the_other_engine() -> None:
    spec = with_flags("--on-cpu --logical-nc-config 2").spec
    assert spec["engine"] == "CPU"
    assert spec["parallelism"] == {"tensorParallelDegree": 1}


def test_lora_is_one_configuration_with_the_commands_defaults() -> None:
    result = with_flags(
        "--enable-dynamic-multi-lora --max-loras 4 --target-modules q_proj v_proj",
        "--lora-ckpt-path a:/a --lora-ckpt-path b:/b --batch-size 2",
    )
    assert result.extra["lora_config"] == {
        "max_loras": 4,
        "max_lora_rank": 16,
        "max_cpu_loras": 1,
        "target_modules": ["q_proj", "v_proj"],
        "lora_ckpt_paths": ["a:/a", "b:/b"],
        "batch_size": 2,
        "dynamic_multi_lora": True,
        "base_model_quantized": False,
    }


# Volumes, placement, the command itself


@pytest.mark.parametrize(
    ("folder", "given", "size"),
    [
        ("Llama-3.1-405B-Instruct", "", "1Ti"),
        ("Llama-3.1-70B", "", "192Gi"),
        ("Llama-3.1-8B-Instruct", "", "36Gi"),
        ("Llama-3.1-8B-Instruct", "--torch-dtype float32", "56Gi"),
        ("Mixtral-8x7B-v0.1", "", "160Gi"),
        ("my-model", "", "1Ti"),
    ],
)
def test_the_volume_is_as_big_as_the_models_name_says(folder: str, given: str, size: str) -> None:
    command = "inference_demo --model-type llama --task-type causal-lm run --save-sharded-checkpoint"
    spec = converted(f"{command} --model-path /models/{folder} {given}").spec
    assert spec["artifacts"]["template"] == {"size": size}


def test_the_artifacts_volume_can_be_chosen() -> None:
    for size in ("1k", "0.5Ei", "1", "10.05G"):
        assert with_flags(artifacts_size=size).spec["artifacts"] == {"template": {"size": size}}
    chosen = with_flags(artifacts_size="2Ti", storage_class="fast").spec["artifacts"]
    assert chosen == {"template": {"storageClassName": "fast", "size": "2Ti"}}
    assert with_flags(artifacts_claim="mine").spec["artifacts"] == {"persistentVolumeClaim": {"claimName": "mine"}}


def test_another_instance_type_is_selected() -> None:
    result = with_flags("--tp-degree 4", instance_type="trn2.3xlarge")
    assert result.spec["worker"]["nodeSelector"] == {"node.kubernetes.io/instance-type": "trn2.3xlarge"}
    assert "# 4 logical cores, for 4 ranks." in result.text


@pytest.mark.parametrize(
    "choices",
    [
        {"name": "Llama.3"},
        {"name": "x" * 41},
        {"claim": "Models"},
        {"source": "meta-llama/Llama-3.1-8B"},
        {"source": "https://huggingface.co/meta-llama/Llama-3.1-8B"},
        {"source": "gs://bucket/model"},
        {"source": "s3://b/model"},
        {"source": "s3://key:secret@bucket/model"},
        {"source": "s3://bucket/model", "claim": "models"},
        {"source": "hf://"},
        {"source": "hf://datasets/org/name"},
        {"source": "hf://org/name/folder"},
        {"source": "hf://org/name@a..b"},
        {"source": "hf://org/name", "claim": "models"},
        {"source": "hf://org/name", "claim_root": "/models"},
        {"artifacts_size": "1 TB"},
        {"artifacts_size": "1K"},
        {"artifacts_size": "0Gi"},
        {"artifacts_size": "0.0"},
        {"artifacts_size": "1" * 33},
        {"instance_type": "trn2 48xlarge"},
        {"artifacts_claim": "mine", "artifacts_size": "1Ti"},
        {"claim_root": "/models"},
    ],
)
def test_options_that_cannot_be_are_refused(choices: dict[str, str]) -> None:
    with pytest.raises(UsageInvalid):
        with_flags(**choices)


def test_what_is_left_out_for_one_reason_stands_together() -> None:
    text = with_flags("--benchmark --expected-outputs-path /o --prompt a").text
    assert "# - --benchmark, --expected-outputs-path: it checks" in text
    assert "# - --prompt: " in text


def test_native_weights_leave_no_copies_on_scratch() -> None:
    assert "a copy of what a start reads" in with_flags().unwrapped
    assert "copy of what" not in with_flags("--enable-lora").unwrapped


def test_the_command_reads_standard_input_and_names_what_it_leaves_out() -> None:
    ended = neuronmodel("from-command", "--name", "mine", stdin=ON_LOAD)
    assert ended.code == exits.OK
    assert yaml.safe_load(ended.out)["metadata"]["name"] == "mine"
    assert [line.split(": ")[1:3] for line in ended.err.splitlines()] == [
        ["line 14", "not carried over"],
        ["line 31", "not carried over"],
        ["line 31", "not carried over"],
    ]


def test_what_is_not_understood_is_one_line_with_an_exit_code(tmp_path: Path) -> None:
    file = tmp_path / "run.sh"
    file.write_text("inference_demo --model-type llama --task-type causal-lm run \\\n --model-path /m --qkv-kernal 1\n")
    ended = here("from-command", file)
    assert (ended.code, ended.out) == (exits.BAD_INPUT, "")
    assert "Line 2: inference_demo of NxD Inference 0.9.0 has no flag --qkv-kernal." in ended.sentence


@pytest.mark.parametrize("content", [b"\xff\xfe", b"#" * (1 << 20) + b"\n\n"])
def test_a_file_that_is_no_text_is_refused(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "run.sh"
    file.write_bytes(content)
    assert here("from-command", file).code == exits.USAGE


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    ended = here("from-command", tmp_path / "none.sh")
    assert ended.code == exits.USAGE
    assert "No such file" in ended.sentence


# Mistakes of copied text


@pytest.mark.parametrize("dashes", ["\u2014", "-\u2014", "\u2013\u2013", "\u2212-", "\u2011\u2011"])
def test_a_dash_that_is_no_hyphen_is_read_as_it_is_meant_and_named(dashes: str) -> None:
    text = f"{SMALLEST.format(model_type='llama')} \\\n  {dashes}tp\u2011degree 8 {dashes}fused-qkv"
    found = convert(read_flags(read_invocation(text)), Choices())
    assert found.document["spec"]["parallelism"]["tensorParallelDegree"] == 8
    assert found.document["spec"]["compile"]["fusedQKV"] is True
    assert [each.line for each in found.corrections] == [2, 2]
    assert "no hyphen, and is read as --tp-degree" in found.corrections[0].text


def test_a_blank_behind_a_backslash_is_read_as_it_is_meant_and_named() -> None:
    text = f"{SMALLEST.format(model_type='llama')} \\ \n  --tp-degree 8 \\\t\n --fused-qkv\n"
    found = convert(read_flags(read_invocation(text)), Choices())
    assert found.document["spec"]["compile"]["fusedQKV"] is True
    assert [each.line for each in found.corrections] == [1, 2]


def test_other_blanks_of_a_page_are_named() -> None:
    with pytest.raises(NotUnderstood, match=r"Line 1: .*no-break space"):
        converted(f"{SMALLEST.format(model_type='llama')}\u00a0--tp-degree 8")


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("/models/m", "m"),
        (
            "/cache/hub/models--meta-llama--Llama-3.1-8B/snapshots/0e9e39f249a1",
            "llama-3-1-8b",
        ),
        ("~/models/Llama-3.1-8B/", "llama-3-1-8b"),
        ("$HOME/models/Llama-3.1-8B", "llama-3-1-8b"),
    ],
)
def test_names_of_folders(folder: str, name: str) -> None:
    text = SMALLEST.format(model_type="llama").replace("/models/Llama-3.1-8B", folder)
    assert convert(read_flags(read_invocation(text)), Choices(claim="models")).document["metadata"]["name"] == name


def test_of_an_unknown_path_without_a_claim_the_unknown_part_is_named() -> None:
    text = SMALLEST.format(model_type="llama").replace("/models/", "$HOME/models/")
    with pytest.raises(NotUnderstood, match="HOME has no value"):
        converted(text)
    with pytest.raises(NotUnderstood, match="MODEL has no value"):
        converted(text.replace("$HOME/models/Llama-3.1-8B", "/models/$MODEL"), claim="models")


@pytest.mark.parametrize(
    "before",
    [
        "export PATH=/opt/aws/neuron/bin:$PATH",
        "export LD_LIBRARY_PATH=$LD_LIBRARY_PATH:/opt/lib",
        'export NEURON_CC_FLAGS="$NEURON_CC_FLAGS --model-type transformer"',
        "LOG=log-$(date +%s)",
        "export HF_HOME=~/cache",
    ],
)
def test_what_is_not_carried_may_be_unknown(before: str) -> None:
    assert with_flags('--prompt "$PROMPT at $(date)" > log-$RUN', before=before).spec


def test_a_command_that_the_shell_has_expanded_needs_no_text() -> None:
    words = [*SMALLEST.format(model_type="llama").split(), "--prompt", "it's $5", "--tp-degree", "8"]
    found = convert(read_flags(invocation_of(words)), Choices())
    assert found.document["spec"]["parallelism"]["tensorParallelDegree"] == 8
    with pytest.raises(NotUnderstood, match="no inference_demo command"):
        invocation_of(["ls", "-l"])
