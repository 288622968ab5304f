"""A record of every call that matters: `calls` in this process, and a file of JSON lines where one is named."""

import json
import os
from pathlib import Path
from typing import Any

calls: list[dict[str, Any]] = []


def record(event: str, **facts: Any) -> None:
    call = {"event": event, "pid": os.getpid(), **facts}
    calls.append(call)
    if path := os.environ.get("NEURON_STANDIN_LOG"):
        line = json.dumps(call, default=str) + "\n"
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(descriptor, line.encode())  # in one call: processes share the file
        finally:
            os.close(descriptor)


def is_wanted() -> bool:
    return "NEURON_STANDIN_LOG" in os.environ


def recorded(path: Path, event: str | None = None) -> list[dict[str, Any]]:
    """The calls of all processes, of one kind or of all."""
    lines = path.read_text().splitlines() if path.exists() else []
    found: list[dict[str, Any]] = [json.loads(line) for line in lines]
    return [call for call in found if event in (None, call["event"])]
