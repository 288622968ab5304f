"""Ages and amounts of bytes as people write them."""

import re

from neuronmodel_worker.failures import UsageInvalid

SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
FACTORS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "KI": 2**10, "MI": 2**20, "GI": 2**30, "TI": 2**40}


def age_of(text: str, option: str) -> float:
    """Returns seconds. Raises UsageInvalid."""
    match = re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]{1,3})?)([smhdw]?)", text.strip())
    if not match or not (match[2] or float(match[1]) == 0):
        raise UsageInvalid(f"{option} is {text!r} and has to be an age such as 90m, 12h or 30d.")
    return float(match[1]) * SECONDS[match[2] or "s"]


def bytes_of(text: str, option: str) -> int:
    """Returns bytes. Raises UsageInvalid."""
    match = re.fullmatch(r"([0-9]{1,18}(?:\.[0-9]{1,3})?)\s*([KMGT]?I?)B?", text.strip().upper())
    if not match or match[2] == "I":
        raise UsageInvalid(f"{option} is {text!r} and has to be an amount of bytes such as 500GB, 2TB or 1.5TiB.")
    return round(float(match[1]) * FACTORS[match[2]])


def shown_age(seconds: float) -> str:
    """Formats an age in its largest unit."""
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(0, seconds):.0f} s"
