"""What one process is asked to do, and what it reports when it is done; both travel as JSON."""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

Steps = Mapping[str, float]
"""Processor seconds by the name of the step."""
Timed = Callable[[], float | Steps | None]
"""May return the seconds that count, where these are a part of what it does, or where its processor seconds went."""

READY = "ready"
GO = "go"


@dataclass(frozen=True)
class Task:
    """`source` is a checkpoint, `output` a folder that does not exist yet; `options` are the contender's own.
    `practice` is a small checkpoint, to do the same with first. What is read may also be a folder of rank files.
    `processors`: on so many of those that the process may use, all of them where it is None."""

    source: Path
    output: Path
    neuron_config: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    practice: Path | None = None
    processors: int | None = None

    def to_json(self) -> str:
        return json.dumps(asdict(self), default=str)

    @classmethod
    def from_json(cls, text: str) -> "Task":
        values = json.loads(text)
        paths = {name: Path(values[name]) for name in ("source", "output", "practice") if values[name]}
        return cls(**{**values, **paths})

    @property
    def source_files(self) -> list[Path]:
        return sorted(self.source.glob("*.safetensors"))

    @property
    def volume(self) -> Path:
        return volume_next_to(self.source)

    @property
    def evicted_files(self) -> list[Path]:
        """All that a contender may read."""
        return [*self.source_files, *sorted(self.volume.rglob("*.safetensors"))]


def volume_next_to(checkpoint: Path) -> Path:
    """The artifacts volume that holds what was prepared from a checkpoint before the rounds."""
    return checkpoint.with_name(f"{checkpoint.name}.volume")


Prepare = Callable[[Task], Timed]


@dataclass(frozen=True)
class Timing:
    """Of what was timed: the wall seconds that count, and processor seconds in user and system mode of the process and
    what it started. `whole_seconds`: from its beginning to its end, where only a part of them counts. `steps`:
    where the processor seconds went, where that was measured."""

    seconds: float
    user_seconds: float
    system_seconds: float
    whole_seconds: float | None = None
    steps: Steps | None = None

    @property
    def elapsed(self) -> float:
        return self.seconds if self.whole_seconds is None else self.whole_seconds
