"""The format of a rank's file: its name, its header, its digest."""

import json
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

import xxhash

from neuronmodel_worker.checkpoint import DTYPE_BITS
from neuronmodel_worker.plan.streamed import OutputTensor

# Data starts on a multiple of this, so that tensors of whole blocks can be written past the page cache.
ALIGNMENT = 4096


TENSOR_DIGESTS = "xxh3-128-tensors"
"""The name of `combine_digests` in a manifest."""


RANK_KEY = "rank"
"""The key in a header's metadata that holds the number of the rank."""

RANK_DIGITS = 10

WEIGHTS = "weights"
"""The folder that NxD Inference looks for rank files in."""


def rank_file_name(rank: int) -> str:
    return f"tp{rank}_sharded_checkpoint.safetensors"


@dataclass(frozen=True)
class RankFileFormat:
    """The bytes before the tensors of one rank's file, and the offset of each tensor in it. All rank files of a set
    have the same offsets and the same length; their headers differ in the rank's number."""

    header: bytes
    order: tuple[OutputTensor, ...]
    offsets: Mapping[str, int]
    nbytes: int

    @cached_property
    def header_digest(self) -> str:
        return xxhash.xxh3_128(self.header).hexdigest()


def rank_file_format(
    tensors: Iterable[OutputTensor], rank: int, metadata: Mapping[str, str] | None = None
) -> RankFileFormat:
    """Tensors of whole blocks come first, then the others by element size, so that every tensor is aligned to its
    elements, and most to disk blocks.

    `metadata` is in the header as `__metadata__`, with the rank's number under RANK_KEY.
    """
    order = tuple(sorted(tensors, key=lambda t: (t.nbytes % ALIGNMENT != 0, -DTYPE_BITS[t.dtype])))
    starts, end = {}, 0
    for tensor in order:
        starts[tensor.name] = end
        end += tensor.nbytes
    number = str(rank)
    entries: dict[str, Mapping[str, object]] = {"__metadata__": {**(metadata or {}), RANK_KEY: number}}
    entries |= {tensor.name: _entry(tensor, starts[tensor.name]) for tensor in order}
    text = json.dumps(entries, separators=(",", ":")).encode()
    length = len(text) - len(number) + RANK_DIGITS  # the same for every rank
    padded = text.ljust(-(-(length + 8) // ALIGNMENT) * ALIGNMENT - 8)
    header = struct.pack("<Q", len(padded)) + padded
    offsets = {name: len(header) + start for name, start in starts.items()}
    return RankFileFormat(header, order, offsets, len(header) + end)


def _entry(tensor: OutputTensor, start: int) -> dict[str, object]:
    extent = [start, start + tensor.nbytes]
    return {"dtype": tensor.dtype, "shape": list(tensor.shape), "data_offsets": extent}


def combine_digests(header: bytes, tensors: Iterable[bytes]) -> str:
    """A rank file's digest: xxh3-128 over its header and the xxh3-128 of every tensor, in the order of the file.

    Tensors are written in any order and by several threads, which a digest over the bytes of the whole file would force
    to wait for each other.
    """
    digest = xxhash.xxh3_128(header)
    for tensor in tensors:
        digest.update(tensor)
    return digest.hexdigest()
