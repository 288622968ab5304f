"""What a person waits for at a terminal: help, and the plan of the largest checkpoint, from headers alone."""

import json
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from hack.bench.cases import COMMAND_OF_405B, LLAMA_405B
from hack.bench.checkpoints import write_headers
from hack.bench.failures import BenchFailed
from hack.bench.statistics import Verdict, median

NAME = "commands"
PROGRAM = Path(sys.executable).parent / "neuronmodel"


@dataclass(frozen=True)
class CommandTimes:
    """Seconds of every run, wall or processor as `unit` says. Met when no run needs as long as the limit."""

    title: str
    unit: str
    seconds: tuple[float, ...]
    limit: float

    @property
    def median(self) -> float:
        return median(self.seconds)

    @property
    def verdict(self) -> Verdict:
        return "met" if max(self.seconds) < self.limit else "missed"


def time_commands(scratch: Path, runs: int) -> list[CommandTimes]:
    """Files are in the page cache: every command runs once before it counts. Raises BenchFailed."""
    with _headers_of_405b(scratch / NAME) as source:
        flags = source / "neuron_config.json"
        helping = [_time("--help")[0] for _ in range(runs + 1)]
        planning = [_time("plan", "--model", source, "--neuron-config", flags)[1] for _ in range(runs + 1)]
    return [
        CommandTimes("neuronmodel --help", "s", tuple(helping[1:]), 0.5),
        CommandTimes("neuronmodel plan, Llama 3.1 405B, 126 layers", "CPU s", tuple(planning[1:]), 2.0),
    ]


@contextmanager
def _headers_of_405b(directory: Path) -> Iterator[Path]:
    shutil.rmtree(directory, ignore_errors=True)
    try:
        write_headers(directory, LLAMA_405B)
        (directory / "neuron_config.json").write_text(json.dumps(COMMAND_OF_405B))
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _time(*arguments: str | Path) -> tuple[float, float]:
    """Wall seconds and processor seconds."""
    before, began = _processor_seconds(), time.monotonic()
    done = subprocess.run([PROGRAM, *arguments], capture_output=True, text=True, check=False)
    seconds, processor_seconds = time.monotonic() - began, _processor_seconds() - before
    if done.returncode:
        message = done.stderr.strip()[-500:]
        raise BenchFailed(f"`neuronmodel {arguments[0]}` ended with exit code {done.returncode} and printed: {message}")
    return seconds, processor_seconds


def _processor_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime
