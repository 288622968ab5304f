"""What one process is told to do, and what it says when it has done it; both travel as JSON."""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

Timed = Callable[[], None]

READY = "ready"
GO = "go"


@dataclass(frozen=True)
class Task:
    """`source` is a checkpoint, `output` a folder that does not exist yet; `options` are the contender's own.
    `practice` is a small checkpoint, to do the same with first."""

    source: Path
    output: Path
    neuron_config: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    practice: Path | None = None

    def to_json(self) -> str:
        return json.dumps(asdict(self), default=str)

    @classmethod
    def from_json(cls, text: str) -> "Task":
        told = json.loads(text)
        paths = {name: Path(told[name]) for name in ("source", "output", "practice") if told[name]}
        return cls(**{**told, **paths})

    @property
    def source_files(self) -> list[Path]:
        return sorted(self.source.glob("*.safetensors"))


Prepare = Callable[[Task], Timed]


@dataclass(frozen=True)
class Timing:
    """Of what was timed: wall seconds, and processor seconds in user and system mode of the process and what it
    started."""

    seconds: float
    user_seconds: float
    system_seconds: float
