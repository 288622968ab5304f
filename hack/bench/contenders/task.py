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
    """`source` is a checkpoint, `output` a folder that does not exist yet; `options` are the contender's own."""

    source: Path
    output: Path
    neuron_config: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> str:
        return json.dumps({**asdict(self), "source": str(self.source), "output": str(self.output)})

    @classmethod
    def from_json(cls, text: str) -> "Task":
        told = json.loads(text)
        return cls(Path(told["source"]), Path(told["output"]), told["neuron_config"], told["options"])

    @property
    def source_files(self) -> list[Path]:
        return sorted(self.source.glob("*.safetensors"))


@dataclass(frozen=True)
class Timing:
    """Of what was timed: wall seconds, and processor seconds in user and system mode of the process and what it
    started."""

    seconds: float
    user_seconds: float
    system_seconds: float
