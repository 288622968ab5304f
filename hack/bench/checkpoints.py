"""Writes Hugging Face checkpoints of true shapes with random weights: as large as wanted, the same bytes every time.

The bytes are random, so nothing below the file system can make less of them; NaN among them is of no consequence
where nothing is computed with them. Headers are as the safetensors library writes them: the data starts on a multiple
of 8, not of a disk block.
"""

import json
import os
import shutil
import struct
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from hack.bench.failures import BenchFailed

BF16_BYTES = 2
FILE_BYTES = 5_000_000_000
"""Where transformers begins the next file."""
CHUNK_BYTES = 8 << 20
SPARE_BYTES = 2_000_000_000
"""Left free in addition to what is needed."""
RECIPE = "bench.json"

Tensors = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Model:
    """Shapes of one checkpoint; with `experts` the MLP is Mixtral's, with `finite` it can be computed with."""

    hidden: int
    intermediate: int
    layers: int
    query_heads: int
    key_value_heads: int
    vocabulary: int
    experts: int = 0
    head_size: int = 128
    finite: bool = False

    @property
    def config(self) -> dict[str, Any]:
        """config.json."""
        common = {
            "model_type": "mixtral" if self.experts else "llama",
            "torch_dtype": "bfloat16",
            "hidden_size": self.hidden,
            "intermediate_size": self.intermediate,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.query_heads,
            "num_key_value_heads": self.key_value_heads,
            "vocab_size": self.vocabulary,
            "tie_word_embeddings": False,
        }
        if self.experts:
            return {**common, "num_local_experts": self.experts}
        return {**common, "head_dim": self.head_size, "attention_bias": False, "mlp_bias": False}

    @property
    def tensors(self) -> Tensors:
        """Every tensor's shape, in the order of the files."""
        ends = {
            "model.embed_tokens.weight": (self.vocabulary, self.hidden),
            "model.norm.weight": (self.hidden,),
            "lm_head.weight": (self.vocabulary, self.hidden),
        }
        layers = {
            f"model.layers.{number}.{name}": shape
            for number in range(self.layers)
            for name, shape in {**self._attention(), **self._mlp()}.items()
        }
        return {**layers, **ends}

    def _attention(self) -> Tensors:
        query, key_value = self.query_heads * self.head_size, self.key_value_heads * self.head_size
        return {
            "input_layernorm.weight": (self.hidden,),
            "post_attention_layernorm.weight": (self.hidden,),
            "self_attn.q_proj.weight": (query, self.hidden),
            "self_attn.k_proj.weight": (key_value, self.hidden),
            "self_attn.v_proj.weight": (key_value, self.hidden),
            "self_attn.o_proj.weight": (self.hidden, query),
        }

    def _mlp(self) -> Tensors:
        wide, narrow = (self.intermediate, self.hidden), (self.hidden, self.intermediate)
        if not self.experts:
            return {"mlp.gate_proj.weight": wide, "mlp.up_proj.weight": wide, "mlp.down_proj.weight": narrow}
        module = "block_sparse_moe."
        shapes: dict[str, tuple[int, ...]] = {f"{module}gate.weight": (self.experts, self.hidden)}
        for expert in range(self.experts):
            for name, shape in {"w1": wide, "w2": narrow, "w3": wide}.items():
                shapes[f"{module}experts.{expert}.{name}.weight"] = shape
        return shapes

    @property
    def nbytes(self) -> int:
        """Of the weights."""
        return _nbytes(self.tensors)


def tensor_bytes(shape: tuple[int, ...]) -> int:
    return prod(shape) * BF16_BYTES


def _nbytes(tensors: Tensors) -> int:
    return sum(map(tensor_bytes, tensors.values()))


def ensure_checkpoint(directory: Path, model: Model, file_bytes: int = FILE_BYTES) -> Path:
    """Write the checkpoint, unless a whole one of the same shapes is there. It is on the disk afterwards.

    Raises BenchFailed when there is no room for it.
    """
    recipe = json.dumps([model.config, file_bytes, *(["finite"] if model.finite else [])], sort_keys=True)
    if (directory / RECIPE).is_file() and (directory / RECIPE).read_text() == recipe:
        return directory
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    require_space(directory, model.nbytes, "The generated checkpoint")
    write_headers(directory, model, file_bytes)
    for name, tensors in _files(model.tensors, file_bytes).items():
        _fill(directory / name, tensors, model.finite)
    (directory / RECIPE).write_text(recipe)
    return directory


def write_headers(directory: Path, model: Model, file_bytes: int = FILE_BYTES) -> None:
    """A checkpoint that can be opened and planned with: its weights are holes, which take no room on the disk."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps(model.config, indent=2))
    files = _files(model.tensors, file_bytes)
    for name, tensors in files.items():
        header = header_of(tensors)
        (directory / name).write_bytes(header)
        os.truncate(directory / name, len(header) + _nbytes(tensors))
    if len(files) > 1:
        weight_map = {tensor: name for name, tensors in files.items() for tensor in tensors}
        (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


def require_space(directory: Path, needed: int, what: str) -> None:
    """Raises BenchFailed, with both figures."""
    free = shutil.disk_usage(directory).free
    if free < needed + SPARE_BYTES:
        raise BenchFailed(
            f"{what} needs {needed / 1e9:.1f} GB in {directory}, and {SPARE_BYTES / 1e9:.0f} GB are left free; "
            f"{free / 1e9:.1f} GB are free there. Make room, or name a folder on another disk with --scratch."
        )


def _files(tensors: Tensors, file_bytes: int) -> dict[str, Tensors]:
    """File name → what is in it: as many tensors as fit, in their order."""
    files: list[dict[str, tuple[int, ...]]] = [{}]
    for name, shape in tensors.items():
        if files[-1] and _nbytes(files[-1]) + tensor_bytes(shape) > file_bytes:
            files.append({})
        files[-1][name] = shape
    if len(files) == 1:
        return {"model.safetensors": files[0]}
    return {f"model-{i + 1:05d}-of-{len(files):05d}.safetensors": file for i, file in enumerate(files)}


def header_of(tensors: Tensors) -> bytes:
    """The bytes before a file's data, padded as the safetensors library pads them."""
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in tensors.items():
        offsets = [end, end := end + tensor_bytes(shape)]
        entries[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": offsets}
    text = json.dumps(entries, separators=(",", ":")).encode()
    padded = text.ljust(-(-len(text) // 8) * 8)
    return struct.pack("<Q", len(padded)) + padded


def _fill(path: Path, tensors: Tensors, finite: bool) -> None:
    with path.open("r+b") as file:
        file.seek(len(header_of(tensors)))
        for name, shape in tensors.items():
            for chunk in random_bytes(name, tensor_bytes(shape)):
                file.write(small_numbers(chunk) if finite else chunk)
        file.flush()
        os.fsync(file.fileno())


def random_bytes(name: str, nbytes: int) -> Iterator[memoryview]:
    """The tensor's bytes, in chunks; its name is the seed."""
    source = np.random.SFC64(zlib.crc32(name.encode()))
    for start in range(0, nbytes, CHUNK_BYTES):
        count = min(CHUNK_BYTES, nbytes - start)
        yield source.random_raw(-(-count // 8)).view(np.uint8)[:count].data


def small_numbers(chunk: memoryview) -> memoryview:
    """As BF16: sign and fraction as they come, the size from 2^-7 to 2^-6."""
    numbers = np.frombuffer(chunk, np.uint16)
    return ((numbers & 0x807F) | 0x3C00).view(np.uint8).data
