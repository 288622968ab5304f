"""What `from-command` prints without a complaint, `prepare` takes: whichever flags stand together."""

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from neuronmodel_api.config import Engine, Server, Weights
from neuronmodel_api.spec import NeuronModelSpec
from neuronmodel_operator.manifests import neuron_config as operator_flags
from neuronmodel_worker.commands.migrate.inference_demo_flags import FLAGS, Flag, FlagKind
from neuronmodel_worker.commands.migrate.not_understood import NotUnderstood
from neuronmodel_worker.engines.llama_shape import llama_shape
from neuronmodel_worker.engines.nxdi.settings import check_settings
from neuronmodel_worker.layouts import FAMILIES
from neuronmodel_worker.plan.native import make_native_plan
from neuronmodel_worker.plan.streamed import make_plan
from tests.model_cases import decoder_tensors, headers
from tests.unit.worker.commands.migrate.inference_demo import Result, with_flags

# Every degree below divides its sizes and its heads, and no field contradicts it: what does is the checkpoint's matter.
MODEL: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 32,
    "moe_intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 8,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "vocab_size": 32,
    "tie_word_embeddings": False,
    "attention_bias": False,
    "mlp_bias": False,
    "num_experts": 4,
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
    "sliding_window": None,
    "torch_dtype": "bfloat16",
}
DEGREES = ("1", "2", "4", "8")
# They name files, which a pod has or has not, or are of every command.
NOT_DRAWN = {"--model-type", "--task-type", "--model-path", "--quantized-checkpoints-path", "--enable-lora",
             "--enable-dynamic-multi-lora"}  # fmt: skip
WORDS: dict[str, tuple[str, ...]] = {
    "--tp-degree": DEGREES,
    "--start_rank_id": ("0", "1"),
    "--local_ranks_size": DEGREES,
    "--world-size": DEGREES,
    "--logical-nc-config": ("1", "2"),
    "--logical-neuron-cores": ("1", "2"),
    "--padding-side": ("right", "left"),
    "--cast-type": ("config", "as-declared"),
    "--quantization-type": ("per_tensor_symmetric", "per_channel_symmetric"),
    "--quantization-dtype": ("int8", "f8e4m3"),
    "--activation-quantization-type": ("dynamic",),
    "--k-quant-method": ("per_tensor_symmetric",),
    "--v-quant-method": ("per_tensor_symmetric",),
    "--kv-quant-dtype": ("float8_e4m3fn",),
    "--router-act-fn": ("softmax", "sigmoid"),
    "--router-dtype": ("float32", "bfloat16"),
    "--top-p": ("1.0", "0.5"),
    "--capacity-factor": ("1.0", "2.0"),
}
BY_KIND: dict[FlagKind, tuple[str, ...]] = {
    FlagKind.SWITCH: ("",),
    FlagKind.TOGGLE: ("",),
    FlagKind.INTEGER: ("0", "1", "2", "64", "128"),
    FlagKind.FLOAT: ("0.5", "1.0"),
    FlagKind.DTYPE: ("bfloat16", "float16", "float32"),
    FlagKind.INTEGERS: ("64", "64 128"),
    FlagKind.TEXTS: ("a b",),
}
DRAWN = [name for name in FLAGS if name not in NOT_DRAWN]


@st.composite
def command_lines(draw: st.DrawFn) -> tuple[str, str]:
    """A model type, and flags with values. Half of them bring what they cannot do without."""
    model_type = draw(st.sampled_from([*FAMILIES, "dbrx"]))
    names = draw(st.lists(st.sampled_from(DRAWN), max_size=6, unique=True))
    if draw(st.booleans()):
        names += [each for name in names for each in PARTNERS.get(name, ()) if each not in names]
    return model_type, " ".join(draw(document_lines(FLAGS[name])) for name in dict.fromkeys(names))


@st.composite
def document_lines(draw: st.DrawFn, flag: Flag) -> str:
    if flag.kind is FlagKind.TOGGLE:
        return draw(st.sampled_from([flag.name, flag.negation]))
    return f"{flag.name} {draw(st.sampled_from(WORDS.get(flag.name) or BY_KIND.get(flag.kind, ('a',))))}".strip()


PARTNERS: dict[str, tuple[str, ...]] = {
    "--enable-prefix-caching": ("--enable-block-kv-layout", "--pa-block-size", "--pa-num-blocks"),
    "--attn-block-tkg-nki-kernel-enabled": ("--qkv-kernel-enabled", "--fused-qkv"),
    "--attn-block-tkg-nki-kernel-cascaded-attention": ("--attn-block-tkg-nki-kernel-enabled", "--qkv-kernel-enabled"),
    "--attn-block-tkg-nki-kernel-cache-update": ("--attn-block-tkg-nki-kernel-enabled", "--qkv-kernel-enabled"),
    "--qkv-cte-nki-kernel-fuse-rope": ("--qkv-kernel-enabled", "--qkv-nki-kernel-enabled"),
    "--context-encoding-buckets": ("--enable-bucketing",),
    "--token-generation-buckets": ("--enable-bucketing",),
    "--async-mode": ("--on-device-sampling",),
    "--kv-quant-dtype": ("--kv-cache-quant",),
}


def filled_in(spec: Any) -> Any:
    """As its reader fills the hole of a file that is not at hand."""
    changed = json.loads(json.dumps(spec))
    for item in changed.get("compile", {}).get("extra", ()):
        if item["name"].startswith("FILL IN "):
            item.update(name=item["name"].removeprefix("FILL IN "), value=["lm_head"])
    return changed


def prepare(result: Result, model_type: str) -> None:
    """As the worker's `prepare` reads fields, before it opens an SDK. Raises a BadInput."""
    spec = NeuronModelSpec.model_validate(filled_in(result.spec))
    fields = json.loads(json.dumps(operator_flags.neuron_config(spec)))
    model = {**MODEL, "model_type": model_type}
    case = {"hf_config": model, "tensors": decoder_tensors(model), "dtype": "bfloat16"}
    if spec.sharding and spec.sharding.weights is Weights.NATIVE:
        make_native_plan(headers(case), fields, model_type)
    else:
        plan = make_plan(headers(case), fields, model_type)
        if spec.engine is Engine.CPU:
            llama_shape(plan, fields)
    if spec.engine is Engine.NEURON:
        server = (spec.serving and spec.serving.server) or Server.OPENAI
        check_settings(fields, model_type, server, model)


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])
@given(line=command_lines())
@example(line=("llama", "--moe-tp-degree 1 --moe-ep-degree 1"))
@example(line=("mistral", "--fused-qkv"))
@example(line=("llama", "--vocab-parallel --tp-degree 4 --local_ranks_size 2"))
@example(line=("mixtral", "--on-cpu"))
@example(
    line=("llama", "--on-cpu --enable-prefix-caching --enable-block-kv-layout --pa-block-size 32 --pa-num-blocks 5")
)
@example(line=("mixtral", "--router-dtype bfloat16 --cast-type as-declared"))
@example(line=("llama", "--quantized --modules-to-not-convert-file a --quantized-mlp-kernel-enabled"))
@example(line=("qwen3_moe", "--attn-block-tkg-nki-kernel-enabled --qkv-kernel-enabled"))
def test_what_is_printed_is_prepared(line: tuple[str, str]) -> None:
    model_type, flags = line
    try:
        result = with_flags(flags, model_type=model_type)
    except NotUnderstood:
        assume(flags)  # the smallest command is understood
        return
    prepare(result, model_type)


@pytest.mark.parametrize("name", DRAWN)
@pytest.mark.parametrize("model_type", FAMILIES)
def test_what_is_printed_of_one_flag_is_prepared(name: str, model_type: str) -> None:
    flag = FLAGS[name]
    for value in WORDS.get(name) or BY_KIND.get(flag.kind, ("a",)):
        try:
            result = with_flags(f"{name} {value}", model_type=model_type)
        except NotUnderstood:
            continue
        prepare(result, model_type)
