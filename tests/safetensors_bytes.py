"""Writes safetensors files byte by byte, right and wrong ones."""

import json
import struct
from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray


def with_header(header: str | bytes | dict[str, Any], data: bytes = b"", length: int | None = None) -> bytes:
    """A file with that header; `length` is what the first eight bytes claim."""
    text = json.dumps(header) if isinstance(header, dict) else header
    raw = text.encode() if isinstance(text, str) else text
    return struct.pack("<Q", len(raw) if length is None else length) + raw + data


def safetensors_bytes(tensors: Mapping[str, tuple[str, NDArray[Any]]]) -> bytes:
    """name → (safetensors dtype, array of that element size)."""
    header, data = {}, b""
    for name, (dtype, array) in tensors.items():
        offsets = [len(data), len(data) + array.nbytes]
        header[name] = {"dtype": dtype, "shape": list(array.shape), "data_offsets": offsets}
        data += array.tobytes()
    return with_header(header, data)
