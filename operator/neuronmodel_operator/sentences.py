"""How messages are worded: what is bounded, and how a moment is written."""

from datetime import datetime
from typing import Final

MAX_MESSAGE: Final = 600


def shortened(text: str, limit: int = MAX_MESSAGE) -> str:
    """On one line, and no longer than that."""
    text = " ".join(text.split())
    return text if len(text) <= limit else text[: limit - 1] + "…"


def moment(at: datetime) -> str:
    """As Kubernetes writes it."""
    return f"{at:%Y-%m-%dT%H:%M:%SZ}"
