"""What a folder contains where a checkpoint's config.json or its safetensors files are missing, by the names of its
files.

The functions are pure: they take names, and the first bytes of files without an extension. Sentences follow "… holds no
config.json" or "… holds neither model.safetensors nor its index".
"""

import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from itertools import islice
from typing import Final

from neuronmodel_worker.checkpoint.file_signatures import AS_SAFETENSORS, identify_content
from neuronmodel_worker.io.untrusted_input import listed, shown

ADAPTER_CONFIG: Final = "adapter_config.json"
ADAPTER_FILES: Final = re.compile(r"(adapter_config\.json|adapter_model\.(safetensors|bin|pt)|adapters?\.safetensors)")
ADAPTER_TENSORS: Final = re.compile(
    r"(^|\.)(lora_[AB]|lora_embedding_[AB]|lora_(up|down)|lora_magnitude_vector|hada_w[12]_[ab]|lokr_w[12](_[ab])?"
    r"|ia3_l|prompt_embeddings|base_layer|modules_to_save|original_module)(\.|$)"
)

UNFINISHED: Final = re.compile(
    r".+\.(incomplete|part|partial|aria2|crdownload|download|downloading|filepart|tmp|!qb|opdownload)$",
    re.IGNORECASE,
)
SHARD: Final = re.compile(r"(.+)-([0-9]{1,6})-of-([0-9]{1,6})\.safetensors")
LONE_SHARD: Final = re.compile(r".+-0*1-of-0*1\.safetensors")
CONSOLIDATED: Final = re.compile(r"consolidated.*\.(safetensors|pth|pt)")

CONVERTED: Final = (
    "Convert it with transformers' script for this family, or use the model's repository in Hugging Face format"
)
TO_SAFETENSORS: Final = (
    "Load the model with transformers and save it with save_pretrained(folder, safe_serialization=True), or use a "
    "revision that has safetensors"
)

ZERO_TO_FP32: Final = "Run its zero_to_fp32.py with --safe_serialization, which makes model.safetensors"
JOINED: Final = "Join the parts in their order (cat) under the name of the whole file"
UNPACKED: Final = "Unpack it, and name the folder that it makes"

OTHER_WEIGHTS: Final[tuple[tuple[re.Pattern[str], str, str], ...]] = tuple(
    (re.compile(pattern, re.IGNORECASE), what, remedy)
    for pattern, what, remedy in (
        (r".+\.safetensors[.-]?(part|split)?[._-]?(\d{1,5}|a[a-z])(-of-\d+)?", "a file in parts", JOINED),
        (r".+\.gguf", "weights in GGUF, the format of llama.cpp", AS_SAFETENSORS),
        (r".+\.(ggml|llamafile)|ggml-.+\.bin", "weights in a format of llama.cpp", AS_SAFETENSORS),
        (r"openvino_.+|.+\.(tflite|mlmodel|mlpackage|ot)", "weights for other runtimes", AS_SAFETENSORS),
        (r".+\.(h5|keras|ckpt\.index)|saved_model\.pb", "weights for TensorFlow", TO_SAFETENSORS),
        (r".+\.msgpack(\.index\.json)?", "weights for Flax", TO_SAFETENSORS),
        (r".+\.onnx([._]data)?", "weights in ONNX", AS_SAFETENSORS),
        (r".+\.(engine|plan|trt)", "an engine of TensorRT", AS_SAFETENSORS),
        (r".+\.nemo", "weights in NeMo's format", AS_SAFETENSORS),
        (r"zero_to_fp32\.py|global_step\d+", "the state of a training with DeepSpeed", ZERO_TO_FP32),
        (r".+\.distcp|pytorch_model_fsdp.*", "the state of a training in shards of FSDP", TO_SAFETENSORS),
        (r".+\.(bin|pt|pth|ckpt|pkl|pickle)", "weights in PyTorch's own format", TO_SAFETENSORS),
        (r".+\.bin\.index\.json", "an index of weights in PyTorch's own format", TO_SAFETENSORS),
        (r".+\.(npz|npy)", "weights as arrays of NumPy", AS_SAFETENSORS),
        (r".+\.(tar|tgz|zip|7z|rar|gz|zst|xz|bz2)", "an archive", UNPACKED),
    )
)
NO_WEIGHTS: Final = re.compile(r"training_args\.bin|optimizer\.(pt|bin)|scheduler\.pt|rng_state.*\.pth|scaler\.pt")
"""Files that a training writes into the folder of a model."""

FOLDERS: Final = re.compile(r"models--.+|checkpoint-\d+")
"""The folders of a Hugging Face cache, and of a training."""

MAX_NAMED: Final = 3
MAX_LOOKED_AT: Final = 20

NAMELESS: Final = re.compile(r"[^.]+")
"""A name without an extension, as files in caches have it."""


@dataclass(frozen=True)
class Diagnosis:
    """What was found instead: `what` it is, and `remedy`, a sentence without its full stop. `is_other` says that it is
    another kind of checkpoint, and not one that lacks a file."""

    what: str
    remedy: str
    is_other: bool = True


def instead_of_config(names: Collection[str], head: Callable[[str], bytes]) -> Diagnosis | None:
    """What is in a folder without a config.json; `head` gives a file's first bytes."""
    if adapter := adapter_in(names):
        return adapter
    if "snapshots" in names and "blobs" in names:
        return Diagnosis("the folders of a Hugging Face cache", "Name the folder below snapshots/, mounting all of it")
    if folders := sorted(filter(FOLDERS.fullmatch, names)):
        return Diagnosis(f"folders of checkpoints ({listed(folders)})", "Name the folder of one of them")
    if "model_index.json" in names:
        return Diagnosis("a pipeline of diffusers, which makes images", "Use the checkpoint of a language model")
    if begun := unfinished(names):
        return begun
    if found := [name for name in ("params.json", "consolidated.safetensors", "consolidated.00.pth") if name in names]:
        return Diagnosis(f"Meta's or Mistral's own format ({', '.join(found)})", CONVERTED)
    return _other_weights(names) or _by_content(names, head)


def config_of_other_kind(fields: Collection[str]) -> Diagnosis | None:
    """What a config.json without a model_type is, by its fields."""
    if "peft_type" in fields:
        return Diagnosis("an adapter's (adapter_config.json) and no model's", MERGE)
    if {"dim", "n_layers"} <= set(fields):
        return Diagnosis("the params.json of Meta's or Mistral's own format", CONVERTED)
    return None


def instead_of_weights(names: Collection[str], head: Callable[[str], bytes]) -> Diagnosis | None:
    """What is in a folder without safetensors weights; `head` gives a file's first bytes."""
    checks = (adapter_in, unfinished, _consolidated, _shards, _other_safetensors, _other_weights)
    return next((found for check in checks if (found := check(names))), None) or _by_content(names, head)


def adapter_in(names: Collection[str]) -> Diagnosis | None:
    if found := sorted(filter(ADAPTER_FILES.fullmatch, names)):
        return Diagnosis(f"an adapter (LoRA or another of PEFT's: {listed(found)})", MERGE)
    return None


MERGE: Final = (
    "Merge it into its base model first (peft: AutoPeftModelForCausalLM.from_pretrained(folder).merge_and_unload()"
    ".save_pretrained(merged)), and name the folder with the result"
)


def adapter_tensor(names: Collection[str]) -> str | None:
    """The name of a tensor that only adapters have, if there is one."""
    return next(filter(ADAPTER_TENSORS.search, names), None)


def unfinished(names: Collection[str], of: str = "") -> Diagnosis | None:
    """An unfinished download of a file whose name begins with `of`."""
    found = sorted(name for name in filter(UNFINISHED.fullmatch, names) if name.startswith(of))
    if not found:
        return None
    return Diagnosis(
        f"a download that was not finished ({listed(found)})", "Download it again until it is complete", is_other=False
    )


def _consolidated(names: Collection[str]) -> Diagnosis | None:
    found = sorted(filter(CONSOLIDATED.fullmatch, names))
    if not found or any(map(SHARD.fullmatch, names)):
        return None
    others = [name for name in ("params.json",) if name in names]
    return Diagnosis(f"weights in Meta's or Mistral's own format ({listed(found + others)})", CONVERTED)


def _shards(names: Collection[str]) -> Diagnosis | None:
    """Weights in several files whose index is missing."""
    if lone := sorted(filter(LONE_SHARD.fullmatch, names)):
        return Diagnosis(
            f"{listed(lone)}, one file of one, which is read under the name model.safetensors alone",
            f"Rename it to model.safetensors (or link it: ln -s {shown(lone[0])} model.safetensors)",
            is_other=False,
        )
    shards = [match for name in sorted(names) if (match := SHARD.fullmatch(name))]
    if not shards:
        return None
    base, total = shards[0][1], int(shards[0][3])
    present = {int(match[2]) for match in shards if (match[1], int(match[3])) == (base, total)}
    absent = (
        f"{shown(base)}-{number:05d}-of-{total:05d}.safetensors"
        for number in range(1, total + 1)
        if number not in present
    )
    missing = [name for name, _ in zip(absent, range(MAX_NAMED), strict=False)]
    more = max(0, total - len(present) - len(missing))
    also = f", and not {', '.join(missing)}{f' and {more} more' if more else ''}" if missing else ""
    remedy = "Download model.safetensors.index.json of the same revision" + (
        " and the files that are missing" if missing else ""
    )
    return Diagnosis(f"{len(present)} of the {total} files that the index names{also}", remedy, is_other=False)


def _other_safetensors(names: Collection[str]) -> Diagnosis | None:
    found = sorted(name for name in names if name.endswith(".safetensors"))
    if not found:
        return None
    return Diagnosis(
        f"{listed(found)}, which nothing says to be the model's",
        "Rename the file to model.safetensors if it is the whole model, or download the checkpoint again",
        is_other=False,
    )


def _other_weights(names: Collection[str]) -> Diagnosis | None:
    for pattern, what, remedy in OTHER_WEIGHTS:
        if found := sorted(name for name in filter(pattern.fullmatch, names) if not NO_WEIGHTS.fullmatch(name)):
            return Diagnosis(f"{what} ({listed(found)})", remedy)
    return None


def _by_content(names: Collection[str], head: Callable[[str], bytes]) -> Diagnosis | None:
    for name in sorted(filter(NAMELESS.fullmatch, names))[:MAX_LOOKED_AT]:
        if found := identify_content(head(name)):
            return Diagnosis(f"{shown(name)}, which is {found.what}", found.remedy)
    return None


def unfinished_marker(name: str) -> str:
    """The name of the file that exists while aria2 downloads `name`, which has its full length from the beginning."""
    return f"{name}.aria2"


def rest_of_series(named: Collection[str], names: Collection[str]) -> list[str]:
    """The files in `names` that are numbered in the same series as those in `named`, such as 4 of 6."""
    series = {(match[1], match[3]) for name in named if (match := SHARD.fullmatch(name))}
    matches = [match for name in names if (match := SHARD.fullmatch(name))]
    return sorted(match[0] for match in matches if (match[1], match[3]) in series and match[0] not in named)


def absent_of_series(named: Collection[str], names: Collection[str]) -> list[str]:
    """The first files of the same series that are neither in `named` nor in `names`."""
    series = {(match[1], match[3]) for name in named if (match := SHARD.fullmatch(name))}
    absent = (
        file
        for base, total in sorted(series)
        for number in range(1, int(total) + 1)
        if (file := f"{base}-{number:0{len(total)}d}-of-{total}.safetensors") not in names and file not in named
    )
    return list(islice(absent, MAX_NAMED))
