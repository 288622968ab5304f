"""Checkpoints with generated weights, so that none need storing: what golden files describe."""

import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.safetensors_bytes import safetensors_bytes

DTYPES = {"bfloat16": ("BF16", np.uint16), "float16": ("F16", np.uint16), "float32": ("F32", np.uint32)}


def values(name: str, shape: list[int], dtype: str, kind: int) -> NDArray[Any]:
    """Bits of every element: finite, below 2 in magnitude; of both signs with kind 2."""
    sixteen, thirty_two = (0xBFFF, 0xBFFFFFFF) if kind == 2 else (0x3FFF, 0x3FFFFFFF)
    count = int(np.prod(shape, dtype=np.int64))
    with np.errstate(over="ignore"):
        hashed = np.arange(count, dtype=np.uint64) * np.uint64(2654435761) + np.uint64(zlib.crc32(name.encode()))
    bits = (hashed >> np.uint64(7)) & np.uint64(thirty_two if dtype == "float32" else sixteen)
    return bits.astype(DTYPES[dtype][1]).reshape(shape)


def write_checkpoint(directory: Path, case: Mapping[str, Any]) -> Path:
    """A Hugging Face checkpoint as `case` (a golden file's content) describes it."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps(case["hf_config"]))
    num_files = case.get("files", 1)
    contents: list[dict[str, tuple[str, NDArray[Any]]]] = [{} for _ in range(num_files)]
    for index, (name, shape) in enumerate(case["tensors"]):
        dtype = case.get("dtypes", {}).get(name, case["dtype"])
        contents[index % num_files][name] = (DTYPES[dtype][0], values(name, shape, dtype, case.get("values", 1)))
    names = ["model.safetensors"]
    if num_files > 1:
        names = [f"model-{i + 1:05d}-of-{num_files:05d}.safetensors" for i in range(num_files)]
        index_of = {name: file for file, tensors in zip(names, contents, strict=True) for name in tensors}
        (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index_of}))
    for file, tensors in zip(names, contents, strict=True):
        (directory / file).write_bytes(safetensors_bytes(tensors))
    return directory
