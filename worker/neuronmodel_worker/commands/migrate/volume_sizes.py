"""How large a volume to request, as far as the command line tells: from the number of parameters in the model's
name."""

import re
from typing import Final

from neuronmodel_api.machines import GIB

COMPILED_GIB: Final = 32
"""For compiled models alone. The size of one of 405B is not published; it holds code and no weights."""
UNKNOWN_GIB: Final = 1024
SHARDS_FACTOR: Final = 1.3
"""The shards' size divided by the checkpoint's: 871 GB to 812 GB for Llama 3.1 405B at degree 64, where 8 key and value
heads become 64; smaller models grow more."""

BILLIONS = re.compile(r"(?<![0-9A-Za-z.])(?:([0-9]{1,3})x)?([0-9]{1,4}(?:\.[0-9]{1,3})?)[bB](?![0-9A-Za-z])", re.ASCII)


def parameters_of(name: str) -> float | None:
    """Returns 405e9 for `Llama-3.1-405B-Instruct`; experts are counted in full."""
    match = BILLIONS.search(name)
    return int(match[1] or 1) * float(match[2]) * 1e9 if match else None


def checkpoint_bytes(name: str, bytes_a_parameter: int) -> float | None:
    """Returns the checkpoint's size, or None if the name does not tell."""
    parameters = parameters_of(name)
    return parameters * bytes_a_parameter if parameters else None


def shards_size(checkpoint: float | None) -> str:
    """Returns a quantity with space for shards and compiled models."""
    return _quantity(UNKNOWN_GIB if checkpoint is None else checkpoint * SHARDS_FACTOR / GIB + COMPILED_GIB / 2)


def compiled_size() -> str:
    """Returns a quantity with space for compiled models."""
    return _quantity(COMPILED_GIB)


def _quantity(gib: float) -> str:
    """Rounds up to an eighth of the next lower power of two, and to at least 1 GiB."""
    step = max(1, (1 << (int(gib).bit_length() - 1)) // 8)
    whole = -(-int(gib + 1 - 1e-9) // step) * step
    return f"{whole // 1024}Ti" if whole % 1024 == 0 else f"{whole}Gi"
