"""Every flag of `inference_demo` is carried over or named, and the documentation says where to."""

import re
from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest
import yaml

from neuronmodel_api.spec import NeuronModelSpec
from neuronmodel_operator.manifests import neuron_config as operator_flags
from neuronmodel_worker.commands.migrate.environment import MAX_VARIABLES
from neuronmodel_worker.commands.migrate.inference_demo_flags import (
    BOUNDS,
    FLAGS,
    FORMER,
    NOT_CARRIED,
    PARTS,
    SAMPLING_FLAGS,
    Flag,
    FlagKind,
)
from neuronmodel_worker.commands.migrate.neuronmodel import FP8_VARIABLES
from neuronmodel_worker.commands.migrate.not_understood import NotUnderstood
from neuronmodel_worker.neuron_config.fields import check_fields
from tests.paths import PROJECT
from tests.unit.worker.commands.migrate.inference_demo import SMALLEST, Result, converted, with_flags

TABLES = PROJECT / "tests" / "commands" / "FLAGS.md"
GUIDE = PROJECT / "docs" / "neuron.md"

KINDS = {
    "load_json_file": FlagKind.FILE,
    "get_modules_to_not_convert_json": FlagKind.FILE,
    "CheckAccuracyMode": FlagKind.TEXT,
    "str_to_quantization_type": FlagKind.TEXT,
    "": FlagKind.TEXT,  # one of two words
}

# What a flag cannot do without, and a value that it takes where 1, or any word, is none.
PARTNERS = {
    "--quantized": "--quantized-checkpoints-path /quantized",
    "--enable-block-kv-layout": "--enable-prefix-caching --pa-block-size 32 --pa-num-blocks 5",
    "--enable-prefix-caching": "--enable-block-kv-layout --pa-block-size 32 --pa-num-blocks 5",
    "--async-mode": "--on-device-sampling",
    "--qkv-cte-nki-kernel-fuse-rope": "--qkv-kernel-enabled --qkv-nki-kernel-enabled",
    "--attn-block-tkg-nki-kernel-enabled": "--qkv-kernel-enabled",
    "--attn-block-tkg-nki-kernel-cache-update": "--qkv-kernel-enabled --attn-block-tkg-nki-kernel-enabled",
    "--attn-block-tkg-nki-kernel-cascaded-attention": "--qkv-kernel-enabled --attn-block-tkg-nki-kernel-enabled",
    "--rmsnorm-quantize-kernel-enabled": "--quantized-mlp-kernel-enabled",
    "--context-encoding-buckets": "--enable-bucketing",
    "--token-generation-buckets": "--enable-bucketing",
    "--strided-context-parallel-kernel-enabled": "--cp-degree 2 --tp-degree 2",
    "--attention-dtype": "--cast-type as-declared",
    "--enable-lora": "--max-loras 2",
    **dict.fromkeys(SAMPLING_FLAGS, "--on-device-sampling"),
    **{name: "--enable-lora" for name, flag in PARTS.items() if flag.spec.endswith("lora_config")},
    **{name: "--kv-cache-quant" for name, flag in PARTS.items() if flag.spec.endswith("kv_quant_config")},
}
VALUES = {
    "--padding-side": "right",
    "--cast-type": "as-declared",
    "--kv-quant-dtype": "float8_e4m3fn",
    "--router-dtype": "float32",
    "--start_rank_id": "0",
    "--local_ranks_size": "1",
    "--max-length": "128",
    "--max-loras": "2",
    "--max-cpu-loras": "2",
}
# Their value is that of every command, or the same as without them.
SEEN_ELSEWHERE = {
    "--model-type": "type: llama",
    "--model-path": "path: /models/Llama-3.1-8B",
    "--task-type": "kind: NeuronModel",
    "--tp-degree": "tensorParallelDegree: 1",
    "--start_rank_id": "tensorParallelDegree: 1",
    "--local_ranks_size": "tensorParallelDegree: 1",
}
EXPERTS = ("--moe-", "--early-expert", "--fused-shared", "--disable-normalize", "--router-", "--capacity")


@cache
def listed() -> dict[str, str]:
    """Every flag of the public source, with its kind."""
    return dict(_listed(TABLES.read_text().splitlines()))


def _listed(lines: list[str]) -> Iterator[tuple[str, str]]:
    for line in lines:
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 3 and cells[0].startswith("`--"):  # flag, kind, default
            yield cells[0].strip("`"), cells[1]
        elif len(cells) >= 3 and (match := re.fullmatch(r"`(--[\w-]+)`\s*(.*)", cells[2])):  # field, default, flag
            yield match[1], match[2].strip()


def given_alone(flag: Flag) -> str:
    value = {
        FlagKind.SWITCH: "",
        FlagKind.TOGGLE: "",
        FlagKind.INTEGER: "1",
        FlagKind.FLOAT: "0.5",
        FlagKind.DTYPE: "float32",
        FlagKind.INTEGERS: "64 128",
        FlagKind.TEXTS: "a b",
    }.get(flag.kind, "a")
    return f"{flag.name} {VALUES.get(flag.name, value)}"


def alone(flag: Flag) -> tuple[Result, Result]:
    """What becomes of the smallest command with a flag and what it needs, and with that alone."""
    partners = PARTNERS.get(flag.name, "")
    model_type = "mixtral" if flag.name.startswith(EXPERTS) else "llama"
    if flag.name in SMALLEST:
        return with_flags(partners), with_flags(partners)
    return (
        with_flags(given_alone(flag), partners, model_type=model_type),
        without(flag, partners, model_type=model_type),
    )


def without(flag: Flag, partners: str, model_type: str) -> Result:
    try:
        return with_flags(partners, model_type=model_type)
    except NotUnderstood:  # they need each other
        return with_flags(model_type=model_type)


def test_the_flags_are_those_of_the_public_source() -> None:
    """But for those of former releases."""
    now = {name: flag for name, flag in FLAGS.items() if name not in FORMER}
    assert now.keys() == listed().keys()
    assert {name: KINDS.get(kind, kind) for name, kind in listed().items()} == {
        name: flag.kind for name, flag in now.items()
    }


@pytest.mark.parametrize("flag", FLAGS.values(), ids=lambda flag: flag.name)
def test_a_flag_is_carried_or_named(flag: Flag) -> None:
    with_it, without_it = alone(flag)
    if flag.name in SEEN_ELSEWHERE:
        assert SEEN_ELSEWHERE[flag.name] in with_it.text
    elif flag.name in (*NOT_CARRIED, *FORMER):
        assert with_it.left_out[flag.name] == flag.reason
        assert with_it.spec == without_it.spec
        assert f"# - {flag.name}: " in with_it.text
    elif flag.name == "--skip-sharding":  # without its partner
        assert flag.name in with_it.left_out
    else:
        assert flag.name not in with_it.left_out
        assert with_it.spec != without_it.spec


@pytest.mark.parametrize(
    "flag", [flag for flag in FLAGS.values() if flag.spec.startswith("compile")], ids=lambda f: f.name
)
def test_a_carried_flag_reaches_neuron_config_by_its_name_and_type(flag: Flag) -> None:
    spec = NeuronModelSpec.model_validate(alone(flag)[0].spec)
    config = operator_flags.neuron_config(spec) | {"generation": operator_flags.generation_config(spec)}
    *path, last = flag.library.split(".")
    place = {
        "NeuronConfig": "",
        "OnDeviceSamplingConfig": "on_device_sampling_config",
        "GenerationConfig": "generation",
    }
    for name in [place[path[0]], *path[1:]]:
        config = config[name] if name else config
    assert last in config
    check_fields(operator_flags.neuron_config(spec), spec.model.type or "")


@pytest.mark.parametrize(
    ("flags", "field", "value"),
    [
        ("--enable-bucketing --context-encoding-buckets 64 128", "context_encoding_buckets", [64, 128]),
        ("--vocab-parallel", "vocab_parallel", True),
        ("--padding-side=right", "padding_side", "right"),
        ("--quantize-clamp-bound 1200", "quantize_clamp_bound", 1200.0),
        ("--max-new-tokens 7", "max_new_tokens", 7),
        (f"--enable-prefix-caching {PARTNERS['--enable-prefix-caching']}", "is_block_kv_layout", True),
        (f"--enable-prefix-caching {PARTNERS['--enable-prefix-caching']}", "is_prefix_caching", True),
        ("--kv-cache-quant --no-kv-direct-cast", "kv_quant_config", {"direct_cast": False}),
        ("--router-act-fn sigmoid --router-dtype float32", "router_config", {"act_fn": "sigmoid", "dtype": "float32"}),
    ],
)
def test_values_have_their_json_types(flags: str, field: str, value: object) -> None:
    found = with_flags(flags, model_type="mixtral" if "router" in flags else "llama").extra[field]
    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize("flag", ["--max-loras", "--k-quant-method", "--kv-direct-cast", "--top-p", "--lora-ckpt-json"])
def test_a_part_of_what_is_not_asked_for_is_named(flag: str) -> None:
    result = with_flags(given_alone(FLAGS[flag]))
    assert set(result.left_out) == {flag}
    assert result.spec == with_flags().spec


@pytest.mark.parametrize("quantizes", ["--quantized --quantized-checkpoints-path /q", "--quantized-mlp-kernel-enabled"])
def test_modules_that_a_file_keeps_from_quantization_are_a_hole_that_the_api_server_refuses(quantizes: str) -> None:
    """Without them all modules would be quantized, and the NeuronModel would compute something else."""
    result = with_flags(f"{quantizes} --qkv-kernel-enabled --modules-to-not-convert-file /root/modules.json")
    (name,) = (name for name in result.extra if "modules_to_not_convert" in name)
    pattern = definition()["properties"]["compile"]["properties"]["extra"]["items"]["properties"]["name"]["pattern"]
    assert not re.search(pattern, name)
    assert "/root/modules.json" in result.text
    assert "until then the API server refuses" in result.left_out["--modules-to-not-convert-file"]


def test_what_config_json_would_have_to_say_is_not_presumed() -> None:
    """A Mistral checkpoint may have no sliding window, and its config.json is not in the text."""
    result = with_flags("--windowed-context-encoding-size 64", model_type="mistral")
    assert result.extra == {"windowed_context_encoding_size": 64}


def test_an_infinite_bound_is_the_default() -> None:
    result = with_flags("--quantize-clamp-bound inf")
    assert result.extra == {}
    assert set(result.left_out) == {"--quantize-clamp-bound"}


@pytest.mark.parametrize(
    ("flags", "what"),
    [
        ("--qkv-kernal-enabled", "has no flag --qkv-kernal-enabled"),
        ("--mlp-tkg-nki-kernel-enabled", "has no flag"),
        ("-h", "has no flag -h"),
        ("--enable", "may be --enable-block-kv-layout"),
        ("--model-type llama", "belongs before the word run"),
        ("--batch-size", "has no value behind it"),
        ("--batch-size --seq-len 5", "has no value behind it"),
        ("--batch-size two", "has to be an integer"),
        ("--batch-size 1.5", "has to be an integer"),
        ("--top-p much", "has to be a number"),
        ("--torch-dtype torch.bfloat16", "has to be one of bfloat16, float16, float32"),
        ("--fused-qkv=true", "takes no value"),
        ("--fused-qkv true", "'true' stands where a flag was expected"),
        ("–-degree 4", "no hyphen"),
        ("--router-act-fn sigmoid", "is of models with experts"),
    ],
)
def test_what_the_command_would_not_take_is_refused(flags: str, what: str) -> None:
    with pytest.raises(NotUnderstood, match=f"^Line 2: .*{re.escape(what)}"):
        with_flags(flags)


@pytest.mark.parametrize(
    ("command", "what"),
    [
        ("inference_demo", "The word run is missing"),
        ("inference_demo --model-type llama --task-type causal-lm run", "--model-path is missing"),
        ("inference_demo --task-type causal-lm run --model-path /m", "--model-type is missing"),
        ("inference_demo --tp-degree 4 run --model-path /m", "belongs behind the word run"),
        ("inference_demo --model-type llama --task-type speculate run --model-path /m", "serves causal-lm"),
        ("inference_demo --model-type Llama-3 --task-type causal-lm run --model-path /m", "no model type"),
    ],
)
def test_a_command_without_what_it_needs_is_refused(command: str, what: str) -> None:
    with pytest.raises(NotUnderstood, match=what):
        converted(command)


def test_values_are_read_as_the_command_reads_them() -> None:
    result = with_flags(
        "--batch-size=2 --torch float32 --seq-len 256 --on-device-sampling --top-k -1 --prompt '-a b' --prompt=-x"
    )
    assert result.spec["compile"]["batchSize"] == 2
    assert result.spec["compile"]["sequenceLength"] == 256
    assert result.spec["compile"]["onDeviceSampling"] == {"topK": -1}


def test_the_guide_shows_every_flag_with_its_places() -> None:
    rows = [row(flag) for flag in FLAGS.values()]
    shown = [line for line in GUIDE.read_text().splitlines() if re.match(r"\| `--", line)]
    assert sorted(shown) == sorted(rows)


def row(flag: Flag) -> str:
    spec = f"`{flag.spec}`" if flag.spec else f"not carried: {flag.reason}"
    return f"| `{flag.name}` | {spec} | {flag.library if ' ' in flag.library else f'`{flag.library}`'} |"


# What the API server takes


@cache
def definition() -> dict[str, Any]:
    (version,) = yaml.safe_load((PROJECT / "crds" / "neuronmodels.yaml").read_text())["spec"]["versions"]
    schema: dict[str, Any] = version["schema"]["openAPIV3Schema"]["properties"]["spec"]
    return schema


def field_of(flag: Flag) -> dict[str, Any]:
    found = definition()
    for name in flag.spec.split("."):
        found = found["properties"].get(name, {})
    return found


def test_integers_with_a_field_of_their_own_are_bounded_as_it_is() -> None:
    fields = {
        name: field_of(flag) for name, flag in FLAGS.items() if flag.kind is FlagKind.INTEGER and " " not in flag.spec
    }
    bounds = {name: (each["minimum"], each["maximum"]) for name, each in fields.items() if "maximum" in each}
    assert bounds == BOUNDS


@pytest.mark.parametrize("name", BOUNDS)
def test_beyond_its_bounds_an_integer_is_refused(name: str) -> None:
    for value in (BOUNDS[name][0] - 1, BOUNDS[name][1] + 1):
        with pytest.raises(NotUnderstood, match=rf"Line 2: {name} is {value}, and a NeuronModel takes"):
            with_flags(f"{name} {value}")


@pytest.mark.parametrize("given", ["--top-k 0", "--top-k 257", "--top-k 5 --global-topk 4"])
def test_more_tokens_than_are_gathered_are_not_compiled_in(given: str) -> None:
    with pytest.raises(NotUnderstood, match="has to be -1, or from 1"):
        with_flags(f"--on-device-sampling {given}")


def test_no_more_variables_are_exported_than_a_worker_takes() -> None:
    def exports(count: int) -> str:
        return "\n".join(f"export V{number}=1" for number in range(count))

    assert len(with_flags(before=exports(MAX_VARIABLES)).env) == MAX_VARIABLES
    assert definition()["properties"]["worker"]["properties"]["env"]["maxItems"] >= MAX_VARIABLES + len(FP8_VARIABLES)
    for before in (exports(MAX_VARIABLES + 1), f"export {'V' * 254}=1"):
        with pytest.raises(NotUnderstood, match="A NeuronModel carries"):
            with_flags(before=before)
