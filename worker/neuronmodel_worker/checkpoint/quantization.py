"""Whether a checkpoint's weights are quantized, and by which method, from config.json, a file that a quantizer writes
into the folder, or the names of the tensors."""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from neuronmodel_worker.io.untrusted_input import shown

QUANTIZER_FILES: Final = ("quantize_config.json", "quant_config.json", "hf_quant_config.json")
"""The files that AutoGPTQ and GPTQModel, AWQ, and NVIDIA's ModelOpt write."""

IN_CONFIG: Final = ("quantization_config", "compression_config", "quantization")
"""The fields of config.json that transformers, older versions of compressed-tensors, and MLX write."""

UNNAMED: Final = "an unnamed method"

NAMES: Final[Mapping[str, str]] = {
    "awq": "AWQ", "gptq": "GPTQ", "marlin": "Marlin", "bitsandbytes": "bitsandbytes", "fp8": "FP8",
    "fbgemm_fp8": "FBGEMM FP8", "mxfp4": "MXFP4", "modelopt": "ModelOpt", "hqq": "HQQ", "aqlm": "AQLM",
    "eetq": "EETQ", "quanto": "quanto", "torchao": "torchao", "vptq": "VPTQ", "spqr": "SpQR", "higgs": "HIGGS",
    "quark": "Quark", "bitnet": "BitNet", "auto-round": "AutoRound", "fp_quant": "FP-Quant", "exl2": "EXL2",
    "exl3": "EXL3",
}  # fmt: skip
"""The names of methods that are spelled differently in config.json."""

LIBRARY_METHODS: Final = frozenset({"fp8", "fbgemm_fp8", "mxfp4", "compressed-tensors", "modelopt", "quark"})
"""The methods whose weights NxD Inference may read, in families that have no layout here."""

BY_TENSORS: Final[tuple[tuple[re.Pattern[str], str], ...]] = tuple(
    (re.compile(pattern), method)
    for pattern, method in (
        (r"\.g_idx$", "gptq"),
        (r"\.(q_scale_max|q_invperm|q_groups|q_group_map|q_perm|q_weight)$", "exl2"),
        (r"\.trellis$", "exl3"),
        (r"[._]weight_qdata$|\.weight:_", "torchao"),
        (r"\.(self_attn|mlp)\.\w+_proj\.[Bs]$", "marlin"),
        (r"\.(qweight|qzeros)$", "awq"),
        (r"\.weight\.quant_state\.|\.weight\.(absmax|quant_map|nested_absmax)$|\.SCB$", "bitsandbytes"),
        (
            r"\.weight_(packed|zero_point|shape|g_idx|global_scale)$|\.weight\.(bitmask|compressed)$",
            "compressed-tensors",
        ),
        (r"\.weight_scale_inv$", "fp8"),
        (r"_blocks$", "mxfp4"),
        (r"\.weight_scale(_2)?$", "FP8 or INT8"),
        (r"\.weight\._(data|scale|zeropoint|shift)$", "quanto"),
        (r"\.(W_q|W_q_\w+)$|\.meta\.scale$", "hqq"),
        (r"\.(codebooks|codes)$", "aqlm"),
        (r"\.weight_scales$", "eetq"),
        (r"\.(centroids|res_centroids|outlier_indices)(\.weight)?$", "vptq"),
        (r"\.(dense_weights|row_offsets|in_perm)$", "spqr"),
        (r"\.(Qidxs|Qidxs_\w+)$", "QuIP#"),
        (r"\.tables2?$", "higgs"),
        (r"(_proj|\.w[123]|lm_head|embed_tokens)\.(qscales|scales|scale)$", UNNAMED),
    )
)
"""Names that no tensor of an unquantized model has, the most specific ones first. No pattern looks at more than the
last three parts of a name, or at a number in them."""

BLOCKS: Final = re.compile(r"(.+)_blocks$")


@dataclass(frozen=True)
class Quantization:
    """How a checkpoint is quantized: `method` as config.json names it; `where` is the evidence, a file of the
    checkpoint or its tensors."""

    method: str
    bits: str
    where: str
    is_of_tensors: bool = False

    @property
    def name(self) -> str:
        return f"{NAMES.get(self.method, shown(self.method))}{self.bits}"

    def sentence(self, path: Path) -> str:
        """The refusal of the checkpoint in `path`."""
        how = f"by {self.name}" if self.method == UNNAMED else f"with {self.name}"
        undone = "" if self.is_of_tensors else f" If its weights no longer are quantized, delete {self.where}."
        return (
            f"The checkpoint in {path} is quantized {how}, as {self.where} says, and shards are made from weights in "
            "bfloat16, float16, float32 or float64. Use the checkpoint that it was made from, or dequantize it and "
            f"save it in one of these types.{undone}"
        )


def quantization_of(
    config: Mapping[str, object], quantizer_files: Mapping[str, object], names: Collection[str] = ()
) -> Quantization | None:
    """How a checkpoint is quantized, if it is. `quantizer_files` are the contents of QUANTIZER_FILES by name; `names`
    are those of the tensors, if the model's tensors are named as in a family that has a layout here."""
    for field in IN_CONFIG:
        if found := _from_settings(config.get(field), f"{field} in its config.json"):
            return found
    for file, settings in quantizer_files.items():
        if found := _from_file(settings, file):
            return found
    return _from_tensors(names)


def _from_settings(settings: object, where: str) -> Quantization | None:
    if isinstance(settings, str) and settings:
        return Quantization(settings, "", where)
    if not settings:
        return None
    if not isinstance(settings, dict):
        return Quantization(UNNAMED, "", where)
    method = _method(settings)
    return Quantization(method, _bits(settings), where) if method else None


def _method(settings: Mapping[str, object]) -> str | None:
    """The method of the settings; None where they do not change the weights."""
    if settings.get("load_in_4bit") or settings.get("load_in_8bit"):
        return "bitsandbytes"
    named = settings.get("quant_method") or settings.get("quant_type") or settings.get("method")
    method = named.lower().replace("_4bit", "").replace("_8bit", "") if isinstance(named, str) else None
    if method == "bitsandbytes" and settings.get("load_in_4bit") is False and settings.get("load_in_8bit") is False:
        return None
    if method == "compressed-tensors" or (method is None and "sparsity_config" in settings):
        return "compressed-tensors" if _compresses(settings) else None
    if method == "modelopt" and "quant_algo" in settings and settings["quant_algo"] is None:
        return None
    if method:
        return method
    if settings.keys() & {"desc_act", "damp_percent"}:
        return "gptq"
    if settings.keys() & {"zero_point", "w_bit"}:
        return "awq"
    return "MLX" if settings.keys() >= {"group_size", "bits"} else UNNAMED


def _compresses(settings: Mapping[str, object]) -> bool:
    """Whether the stored weights are changed: it may be the cache only that is quantized, and dense weights are not
    changed."""
    sparsity = settings.get("sparsity_config")
    sparse = isinstance(sparsity, dict) and sparsity.get("format") not in (None, "dense")
    says_groups = "config_groups" in settings
    return sparse or bool(settings.get("config_groups")) or not (says_groups or isinstance(sparsity, dict))


def _from_file(settings: object, file: str) -> Quantization | None:
    where = f"the file {file} beside it"
    if not isinstance(settings, dict):
        return Quantization(_METHOD_OF_FILE[file], "", where)
    inner = settings.get("quantization")
    if file == "hf_quant_config.json" and isinstance(inner, dict):
        if inner.get("quant_algo", "") is None:
            return None
        algorithm = inner.get("quant_algo")
        return Quantization("modelopt", f" ({shown(algorithm)})" if isinstance(algorithm, str) else "", where)
    named = settings.get("quant_method")
    return Quantization(
        named.lower() if isinstance(named, str) and named else _METHOD_OF_FILE[file], _bits(settings), where
    )


_METHOD_OF_FILE: Final = {
    "quantize_config.json": "gptq",
    "quant_config.json": "awq",
    "hf_quant_config.json": "modelopt",
}


def _bits(settings: Mapping[str, object]) -> str:
    if settings.get("load_in_4bit"):
        return " (4 bits)"
    if settings.get("load_in_8bit"):
        return " (8 bits)"
    bits = next((settings[name] for name in ("bits", "w_bit", "nbits", "weight_bits") if name in settings), None)
    return f" ({bits} bits)" if type(bits) is int and 0 < bits < 64 else ""


def _from_tensors(names: Collection[str]) -> Quantization | None:
    """How the weights are quantized, by the names of the tensors. In an MLX model the scales come with biases, in MXFP4
    the blocks with scales."""
    examples = one_of_each_ending(names)
    for pattern, method in BY_TENSORS:
        for ending, name in examples.items():
            if not pattern.search(ending):
                continue
            if (blocks := BLOCKS.match(name)) and f"{blocks[1]}_scales" not in names:
                continue
            if method == UNNAMED and f"{name.removesuffix('scales')}biases" in names:
                method = "MLX"
            return Quantization(method, "", f"its tensor {shown(name)}", is_of_tensors=True)
    return None


def one_of_each_ending(names: Collection[str]) -> dict[str, str]:
    """The first name for each ending, which is the last three parts without their numbers: there may be 200,000 names,
    but few endings."""
    found: dict[str, str] = {}
    for name in names:
        last = ("0" if part.isdigit() else part for part in name.rsplit(".", 3)[-3:])
        found.setdefault("." + ".".join(last), name)
    return found
