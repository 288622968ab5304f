"""Bytes, rates and durations as people read them."""


def in_units(nbytes: float) -> str:
    """Formats bytes in decimal units, as disks and networks are sold."""
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if nbytes >= size:
            count = nbytes / size
            digits = 2 if count < 10 else 1 if count < 100 else 0
            return f"{count:,.{digits}f} {unit}"
    return f"{nbytes:.0f} bytes"


def rate(nbytes: float, seconds: float) -> str:
    """Formats bytes per second."""
    return f"{in_units(nbytes / seconds)}/s" if seconds > 0 else "an instant"


def duration(seconds: float) -> str:
    """Formats seconds."""
    if seconds < 100:
        return f"{seconds:.2f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"
