"""A rank's file: its name, its header, its digest."""

import json
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

import xxhash

from neuronmodel_worker.checkpoint import DTYPE_BITS
from neuronmodel_worker.plan.streamed import OutputTensor

# Data starts on a multiple of this, so that whole-block tensors can be written without the page cache.
ALIGNMENT = 4096


TENSOR_DIGESTS = "xxh3-128-tensors"
"""The name of `combine_digests` in a manifest."""


RANK_KEY = "rank"
"""Where a header's metadata say which rank's file it is."""

RANK_DIGITS = 10

WEIGHTS = "weights"
"""The folder that NxD Inference looks for rank files in."""


def rank_file_name(rank: int) -> str:
    return f"tp{rank}_sharded_checkpoint.safetensors"


@dataclass(frozen=True)
class RankFileFormat:
    """The bytes before the tensors of one rank's file, and where each tensor begins in it. All ranks' files of a set
    have the same places and the same length; their headers differ in the rank's number."""

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
    """Whole blocks first, then by element size: every tensor is aligned to its elements, most to disk blocks.

    `metadata` stands in the header as `__metadata__`, with the rank's number under RANK_KEY.
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
    room = len(text) - len(number) + RANK_DIGITS  # the same for every rank
    padded = text.ljust(-(-(room + 8) // ALIGNMENT) * ALIGNMENT - 8)
    header = struct.pack("<Q", len(padded)) + padded
    offsets = {name: len(header) + start for name, start in starts.items()}
    return RankFileFormat(header, order, offsets, len(header) + end)


def _entry(tensor: OutputTensor, start: int) -> dict[str, object]:
    extent = [start, start + tensor.nbytes]
    return {"dtype": tensor.dtype, "shape": list(tensor.shape), "data_offsets": extent}


def combine_digests(header: bytes, tensors: Iterable[bytes]) -> str:
    """A rank file's digest: xxh3-128 over its header and the xxh3-128 of every tensor, in the order of the file.

    Tensors are written in any order and by several threads; a digest over the bytes of the whole file would have to
    wait for each other.
    """
    digest = xxhash.xxh3_128(header)
    for tensor in tensors:
        digest.update(tensor)
    return digest.hexdigest()
