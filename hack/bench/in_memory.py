"""Cases whose source and target are on a tmpfs, where no disk hides what computing costs."""

import shutil
from dataclasses import replace
from pathlib import Path

from hack.bench.cases import Case
from hack.bench.quiet import Patience, TouchedMemory, available_memory_bytes
from hack.bench.rounds import OUTPUT_FACTOR, Bench

TMPFS = Path("/dev/shm")  # noqa: S108 - what a tmpfs is for
SCRATCH = TMPFS / "neuronmodel-bench"
IN_PROCESSES_FACTOR = 2.5
"""What a contender holds in memory, at most, for each byte of the source."""


def lack(case: Case) -> str | None:
    """A sentence where this machine has not the memory for a case."""
    on_tmpfs, needed = _on_tmpfs(case), _on_tmpfs(case) + _in_processes(case)
    free = shutil.disk_usage(TMPFS).free if TMPFS.is_dir() else 0
    if free < on_tmpfs:
        return f"{TMPFS} has {free / 1e9:.1f} GB free, and {on_tmpfs / 1e9:.1f} GB are needed."
    if (available := available_memory_bytes()) < needed:
        return f"{available / 1e9:.1f} GB of memory are available, and {needed / 1e9:.1f} GB are needed."
    return None


def _on_tmpfs(case: Case) -> int:
    return int((1 + OUTPUT_FACTOR * (2 if case.sealed else 1)) * case.model.nbytes)


def _in_processes(case: Case) -> int:
    return int(IN_PROCESSES_FACTOR * case.model.nbytes)


def bench(on_disk: Bench, case: Case) -> Bench:
    """There is no disk to wait for, and memory is needed: that of what a contender writes, and its own."""
    SCRATCH.mkdir(parents=True, exist_ok=True)
    touched = TouchedMemory(int(OUTPUT_FACTOR * case.model.nbytes) + _in_processes(case))
    return replace(on_disk, scratch=SCRATCH, patience=Patience(fill=0.0, idle=0.0), filler=touched)


def remove(keep: bool) -> None:
    if not keep:
        shutil.rmtree(SCRATCH, ignore_errors=True)
