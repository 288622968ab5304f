"""Every flag of `inference_demo` (NxD Inference 0.9.0): its kind, and what it sets in the library and in a
NeuronModel."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class FlagKind(StrEnum):
    """What values a flag takes."""

    SWITCH = "switch"
    TOGGLE = "switch, --no-…"
    INTEGER = "int"
    FLOAT = "float"
    TEXT = "str"
    DTYPE = "to_torch_dtype"
    INTEGERS = "int list"
    TEXTS = "list"
    REPEATED = "repeats"
    FILE = "file"
    """The name of a file whose content the library uses."""


@dataclass(frozen=True)
class Flag:
    """One flag. `library` is what it sets there. `spec` is the part of a NeuronModel that carries it; if that is "",
    `reason` says why nothing does."""

    name: str
    kind: FlagKind
    library: str
    spec: str = ""
    reason: str = ""

    @property
    def field(self) -> str:
        """The field of NeuronConfig, if it is one."""
        return self.library.removeprefix("NeuronConfig.")

    @property
    def negation(self) -> str:
        """The negated form of a TOGGLE."""
        return f"--no-{self.name.removeprefix('--')}"


EXTRA: Final = "compile.extra"
SAMPLING: Final = "compile.onDeviceSampling"


def _named(text: str) -> tuple[str, ...]:
    return tuple(text.split())


def _field(name: str) -> str:
    return f"NeuronConfig.{name.removeprefix('--').replace('-', '_')}"


def _extras(kind: FlagKind, names: str) -> list[Flag]:
    return [Flag(name, kind, _field(name), f"{EXTRA} {_field(name).partition('.')[2]}") for name in _named(names)]


def _dropped(kind: FlagKind, names: str, reason: str, library: str = "the command itself") -> list[Flag]:
    return [Flag(name, kind, library, reason=reason) for name in _named(names)]


def _sampling(name: str, kind: FlagKind, spec: str, field: str = "") -> Flag:
    field = field or name.removeprefix("--").replace("-", "_")
    return Flag(name, kind, f"OnDeviceSamplingConfig.{field}", f"{SAMPLING}.{spec}")


TYPED: Final = {
    flag.name: flag
    for flag in (
        Flag("--torch-dtype", FlagKind.DTYPE, _field("--torch-dtype"), "compile.torchDtype"),
        Flag("--batch-size", FlagKind.INTEGER, _field("--batch-size"), "compile.batchSize"),
        Flag("--max-context-length", FlagKind.INTEGER, _field("--max-context-length"), "compile.maxContextLength"),
        Flag("--seq-len", FlagKind.INTEGER, _field("--seq-len"), "compile.sequenceLength"),
        Flag("--fused-qkv", FlagKind.SWITCH, _field("--fused-qkv"), "compile.fusedQKV"),
        Flag(
            "--sequence-parallel-enabled",
            FlagKind.SWITCH,
            _field("--sequence-parallel-enabled"),
            "compile.sequenceParallel",
        ),
        Flag("--qkv-kernel-enabled", FlagKind.SWITCH, _field("--qkv-kernel-enabled"), "compile.qkvKernel"),
        Flag("--attn-kernel-enabled", FlagKind.TOGGLE, _field("--attn-kernel-enabled"), "compile.attentionKernel"),
        Flag("--mlp-kernel-enabled", FlagKind.SWITCH, _field("--mlp-kernel-enabled"), "compile.mlpKernel"),
        Flag(
            "--cc-pipeline-tiling-factor",
            FlagKind.INTEGER,
            _field("--cc-pipeline-tiling-factor"),
            "compile.ccPipelineTilingFactor",
        ),
    )
}
"""Flags that become a field of `compile` unchanged."""

SAMPLING_FLAGS: Final = {
    flag.name: flag
    for flag in (
        _sampling("--do-sample", FlagKind.SWITCH, "doSample"),
        _sampling("--top-k", FlagKind.INTEGER, "topK"),
        _sampling("--top-p", FlagKind.FLOAT, "topP"),
        _sampling("--temperature", FlagKind.FLOAT, "temperature"),
        _sampling("--dynamic", FlagKind.SWITCH, "dynamic"),
        _sampling("--global-topk", FlagKind.INTEGER, "globalTopK"),
        _sampling("--top-k-kernel-enabled", FlagKind.SWITCH, "topKKernel"),
    )
}

LORA: Final = "NeuronConfig.lora_config"
KV_QUANTIZATION: Final = "NeuronConfig.kv_quant_config"
ROUTER: Final = "NeuronConfig.router_config"

PARTS: Final = {
    flag.name: flag
    for flag in (
        Flag("--max-loras", FlagKind.INTEGER, f"{LORA}.max_loras", f"{EXTRA} lora_config"),
        Flag("--max-lora-rank", FlagKind.INTEGER, f"{LORA}.max_lora_rank", f"{EXTRA} lora_config"),
        Flag("--target-modules", FlagKind.TEXTS, f"{LORA}.target_modules", f"{EXTRA} lora_config"),
        Flag("--max-cpu-loras", FlagKind.INTEGER, f"{LORA}.max_cpu_loras", f"{EXTRA} lora_config"),
        Flag("--lora-ckpt-path", FlagKind.REPEATED, f"{LORA}.lora_ckpt_paths", f"{EXTRA} lora_config"),
        Flag("--lora-ckpt-path-cpu", FlagKind.REPEATED, f"{LORA}.lora_ckpt_paths_cpu", f"{EXTRA} lora_config"),
        Flag("--lora-ckpt-json", FlagKind.TEXT, f"{LORA}.lora_ckpt_json", f"{EXTRA} lora_config"),
        Flag("--k-quant-method", FlagKind.TEXT, f"{KV_QUANTIZATION}.k_quant_method", f"{EXTRA} kv_quant_config"),
        Flag("--v-quant-method", FlagKind.TEXT, f"{KV_QUANTIZATION}.v_quant_method", f"{EXTRA} kv_quant_config"),
        Flag("--kv-quant-dtype", FlagKind.DTYPE, f"{KV_QUANTIZATION}.quant_dtype", f"{EXTRA} kv_quant_config"),
        Flag("--kv-direct-cast", FlagKind.TOGGLE, f"{KV_QUANTIZATION}.direct_cast", f"{EXTRA} kv_quant_config"),
        Flag("--router-act-fn", FlagKind.TEXT, f"{ROUTER}.act_fn", f"{EXTRA} router_config"),
        Flag("--router-dtype", FlagKind.TEXT, f"{ROUTER}.dtype", f"{EXTRA} router_config"),
    )
}
"""Flags for parts of configurations that the command builds from several flags, if the configuration is asked for."""

LORA_DEFAULTS: Final = {"max_loras": 1, "max_lora_rank": 16, "max_cpu_loras": 1}
"""The command's defaults, which differ from the library's."""

SPECIAL: Final = {
    flag.name: flag
    for flag in (
        Flag("--model-type", FlagKind.TEXT, "the application's class", "model.type"),
        Flag("--model-path", FlagKind.TEXT, "the application", "model.source"),
        Flag("--tp-degree", FlagKind.INTEGER, _field("--tp-degree"), "parallelism.tensorParallelDegree"),
        Flag("--start_rank_id", FlagKind.INTEGER, _field("--start_rank_id"), "parallelism.startRank"),
        Flag("--local_ranks_size", FlagKind.INTEGER, _field("--local_ranks_size"), "parallelism.localRanks"),
        Flag(
            "--logical-nc-config",
            FlagKind.INTEGER,
            _field("--logical-nc-config"),
            "parallelism.logicalNeuronCoreConfig",
        ),
        Flag(
            "--logical-neuron-cores",
            FlagKind.INTEGER,
            _field("--logical-nc-config"),
            "parallelism.logicalNeuronCoreConfig",
        ),
        Flag("--pad-token-id", FlagKind.INTEGER, "GenerationConfig.pad_token_id", "compile.padTokenID"),
        Flag("--on-device-sampling", FlagKind.SWITCH, "NeuronConfig.on_device_sampling_config", SAMPLING),
        Flag("--save-sharded-checkpoint", FlagKind.SWITCH, _field("--save-sharded-checkpoint"), "sharding.strategy"),
        Flag("--skip-sharding", FlagKind.SWITCH, _field("--skip-sharding"), "sharding.strategy"),
        Flag("--on-cpu", FlagKind.SWITCH, _field("--on-cpu"), "engine"),
        Flag("--compile-only", FlagKind.SWITCH, "the command itself", "suspend"),
        Flag("--enable-lora", FlagKind.SWITCH, LORA, f"{EXTRA} lora_config"),
        Flag("--enable-dynamic-multi-lora", FlagKind.SWITCH, f"{LORA}.dynamic_multi_lora", f"{EXTRA} lora_config"),
    )
}

RENAMED: Final = {
    flag.name: flag
    for flag in (
        Flag(
            "--enable-block-kv-layout",
            FlagKind.SWITCH,
            "NeuronConfig.is_block_kv_layout",
            f"{EXTRA} is_block_kv_layout",
        ),
        Flag(
            "--enable-prefix-caching", FlagKind.SWITCH, "NeuronConfig.is_prefix_caching", f"{EXTRA} is_prefix_caching"
        ),
    )
}
"""Flags whose NeuronConfig field has another name."""

SAME_NAME: Final = {
    flag.name: flag
    for flag in (
        *_extras(
            FlagKind.SWITCH,
            """
            --allow-input-truncation --output-logits --vocab-parallel --layer-boundary-markers --is-continuous-batching
            --async-mode --enable-bucketing --bucket-n-active-tokens --quantized --kv-cache-quant
            --flash-decoding-enabled --disable-kv-cache-tiling --k-cache-transposed
            --strided-context-parallel-kernel-enabled --qkv-nki-kernel-enabled --qkv-cte-nki-kernel-fuse-rope
            --qkv-kernel-nbsd-layout --fused-rmsnorm-skip-gamma --mlp-kernel-fuse-residual-add
            --qkv-kernel-fuse-residual-add --quantized-mlp-kernel-enabled --attn-block-tkg-nki-kernel-enabled
            --attn-block-tkg-nki-kernel-cache-update --attn-block-tkg-nki-kernel-cascaded-attention
            --rmsnorm-quantize-kernel-enabled --enable-spill-reload-dge --apply-seq-ids-mask --skip-warmup
            --enable-output-completion-notifications --early-expert-affinity-modulation --fused-shared-experts
            --disable-normalize-top-k-affinities
            """,
        ),
        *_extras(
            FlagKind.INTEGER,
            """
            --n-active-tokens --n-positions --max-new-tokens --max-length --weight-gather-seq-len-threshold
            --ctx-batch-size --tkg-batch-size --max-batch-size --kv-cache-batch-size --kv-cache-padding-size
            --pa-num-blocks
            --pa-block-size --windowed-context-encoding-size --cp-degree --mlp-cp-degree --attention-dp-degree
            --pp-degree --ep-degree --scratchpad-page-size --moe-tp-degree --moe-ep-degree
            """,
        ),
        *_extras(
            FlagKind.TEXT,
            """
            --padding-side --cast-type --quantized-checkpoints-path --quantization-type --quantization-dtype
            --activation-quantization-type
            """,
        ),
        *_extras(FlagKind.DTYPE, "--rpl-reduce-dtype --attention-dtype"),
        *_extras(FlagKind.FLOAT, "--quantize-clamp-bound --capacity-factor"),
        *_extras(FlagKind.INTEGERS, "--context-encoding-buckets --prefix-buckets --token-generation-buckets"),
    )
}
"""Fields of NeuronConfig that have no field of their own in the spec."""

DRAFT: Final = (
    "a NeuronModel has one checkpoint and no draft model beside it; without one the answers come more slowly and are "
    "not other ones"
)
MEDUSA: Final = (
    "neither server of a NeuronModel speculates with Medusa's heads; without them the answers come more slowly and are "
    "not other ones"
)
CHUNKS: Final = "neither server of a NeuronModel reads prompts in chunks; read whole, they get the same answers"
CHECKS: Final = "it checks or measures what the command printed, and a NeuronModel serves; requests measure it"
DEBUGGING: Final = "it is for debugging the library, and changes nothing about what is served"
ELSEWHERE: Final = "it names a file of the command's host, and what is in it is not in the text; put that into "

NOT_CARRIED: Final = {
    flag.name: flag
    for flag in (
        *_dropped(FlagKind.TEXT, "--task-type", "a NeuronModel serves causal-lm, and nothing else"),
        *_dropped(
            FlagKind.TEXT,
            "--compiled-model-path",
            "the compiled model lies on the artifacts volume, where it is found by what it was made from",
        ),
        *_dropped(FlagKind.REPEATED, "--prompt", "prompts come with requests to the model's Service"),
        *_dropped(FlagKind.SWITCH, "--benchmark", CHECKS),
        *_dropped(
            FlagKind.TEXT, "--check-accuracy-mode --expected-outputs-path --tol-map --benchmark-report-path", CHECKS
        ),
        *_dropped(FlagKind.FLOAT, "--divergence-difference-tol", CHECKS),
        *_dropped(FlagKind.INTEGER, "--num-tokens-to-check", CHECKS),
        *_dropped(FlagKind.TEXTS, "--capture-indices", DEBUGGING),
        *_dropped(FlagKind.TEXT, "--input-capture-save-dir", DEBUGGING),
        *_dropped(FlagKind.INTEGERS, "--input-start-offsets", DEBUGGING),
        *_dropped(FlagKind.SWITCH, "--hlo-debug", DEBUGGING),
        *_dropped(FlagKind.SWITCH, "--compile-dry-run", "what is prepared is prepared to be served"),
        *_dropped(FlagKind.SWITCH, "--skip-compile", "what is compiled already is found without being asked for"),
        *_dropped(
            FlagKind.SWITCH,
            "--enable-torch-dist",
            "it makes several hosts wait for each other, and one pod serves all ranks of a NeuronModel",
        ),
        *_dropped(
            FlagKind.INTEGER,
            "--world-size",
            "the degrees make it, with which it agrees",
            _field("--world-size"),
        ),
        *_dropped(
            FlagKind.INTEGER,
            "--sampling-dp-degree",
            f"{SAMPLING} has no field for it; the batch is not divided to choose its tokens",
            "OnDeviceSamplingConfig.sampling_dp_degree",
        ),
        *_dropped(FlagKind.REPEATED, "--adapter-id", "it chooses adapters for the command's prompts"),
        *_dropped(FlagKind.TEXT, "--draft-model-path --compiled-draft-model-path", DRAFT),
        *_dropped(FlagKind.INTEGER, "--draft-model-tp-degree", DRAFT),
        *_dropped(FlagKind.INTEGER, "--speculation-length", DRAFT, _field("--speculation-length")),
        *_dropped(FlagKind.INTEGER, "--spec-batch-size", DRAFT, _field("--spec-batch-size")),
        *_dropped(FlagKind.SWITCH, "--enable-fused-speculation", DRAFT, _field("--enable-fused-speculation")),
        *_dropped(FlagKind.SWITCH, "--enable-eagle-speculation", DRAFT, _field("--enable-eagle-speculation")),
        *_dropped(FlagKind.SWITCH, "--is-eagle3", DRAFT, _field("--is-eagle3")),
        *_dropped(FlagKind.SWITCH, "--enable-eagle-draft-input-norm", DRAFT, _field("--enable-eagle-draft-input-norm")),
        *_dropped(FlagKind.FILE, "--token-tree-json", DRAFT, "NeuronConfig.token_tree_config"),
        *_dropped(FlagKind.SWITCH, "--is-medusa", MEDUSA, _field("--is-medusa")),
        *_dropped(FlagKind.INTEGER, "--medusa-speculation-length", MEDUSA, _field("--medusa-speculation-length")),
        *_dropped(FlagKind.INTEGER, "--num-medusa-heads", MEDUSA, _field("--num-medusa-heads")),
        *_dropped(FlagKind.FILE, "--medusa-tree-json", MEDUSA, "NeuronConfig.medusa_tree"),
        *_dropped(FlagKind.SWITCH, "--enable-chunked-prefill", CHUNKS, "NeuronConfig.chunked_prefill_config"),
        *_dropped(FlagKind.INTEGER, "--max-num-seqs", CHUNKS, "NeuronConfig.chunked_prefill_config.max_num_seqs"),
        *_dropped(
            FlagKind.FILE,
            "--modules-to-not-convert-file",
            f"{ELSEWHERE}{EXTRA}, as modules_to_not_convert",
            "NeuronConfig.modules_to_not_convert",
        ),
    )
}

FORMER: Final = {
    flag.name: flag
    for flag in _dropped(FlagKind.SWITCH, "--no-trace-tokengen-model", DRAFT, _field("--trace-tokengen-model"))
}
"""Flags of earlier releases that 0.9.0 does not have."""

BEFORE_RUN: Final = ("--model-type", "--task-type")
"""These flags belong before the word `run`, all others after it."""

FLAGS: Final = {**SPECIAL, **TYPED, **SAMPLING_FLAGS, **PARTS, **RENAMED, **SAME_NAME, **NOT_CARRIED, **FORMER}

BOUNDS: Final = {
    "--tp-degree": (1, 512),
    "--start_rank_id": (0, 511),
    "--local_ranks_size": (1, 512),
    "--batch-size": (1, 4096),
    "--seq-len": (1, 1 << 24),
    "--max-context-length": (1, 1 << 24),
    "--cc-pipeline-tiling-factor": (1, 64),
    "--top-k": (-1, 1 << 20),
    "--global-topk": (1, 1 << 20),
    "--pad-token-id": (0, 1 << 24),
}
"""What the API server accepts, for flags with a field of their own; the rest is left to NxD Inference."""
