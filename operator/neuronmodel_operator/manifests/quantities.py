"""Kubernetes quantities ("1500m", "2Gi", "1e3") as numbers."""

import re
from decimal import Decimal
from typing import Final

_BINARY: Final = {"Ki": 1, "Mi": 2, "Gi": 3, "Ti": 4, "Pi": 5, "Ei": 6}
_DECIMAL: Final = {"n": -9, "u": -6, "m": -3, "": 0, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
_QUANTITY: Final = re.compile(r"([+-]?[0-9]*\.?[0-9]+|[+-]?[0-9]+\.)(?:([KMGTPE]i|[numkMGTPE]?)|[eE]([+-]?[0-9]+))")


def parse_quantity(text: str) -> Decimal | None:
    """Returns the number, or None if the text is no quantity."""
    found = _QUANTITY.fullmatch(text)
    if found is None:
        return None
    number, suffix, exponent = found.groups()
    if exponent is not None:
        return Decimal(number).scaleb(int(exponent)) if len(exponent) < 4 else None
    if suffix in _BINARY:
        return Decimal(number) * Decimal(1024) ** _BINARY[suffix]
    return Decimal(number).scaleb(_DECIMAL[suffix])


def readable(size: int) -> str:
    """Returns bytes as a quantity, rounded up by at most a sixteenth from 16 MiB on."""
    suffix, unit = ("Gi", 1 << 30) if size > 16 << 30 or size % (1 << 30) == 0 else ("Mi", 1 << 20)
    return f"{-(-size // unit)}{suffix}"


def largest(*texts: str) -> str:
    """Returns the text of the greatest quantity; the first one of equals."""
    return max(texts, key=lambda text: parse_quantity(text) or Decimal(0))
