"""Runs a case: every contender once a round, in random order, each in a fresh process on a quiet machine."""

import random
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from hack.bench.cases import Case, Contender, rounds_of
from hack.bench.checkpoints import Model, ensure_checkpoint, require_space, write_headers
from hack.bench.children import DiskUse, Measured, run_contender
from hack.bench.contenders.task import Task, Timing, volume_next_to
from hack.bench.failures import BenchFailed
from hack.bench.quiet import Filler, Patience, TouchedMemory, evict, wait_for_idle_disk

ORDER_SEED = 4
OUTPUT_FACTOR = 1.3
"""Shards are larger than their source, by zero heads and by repeated ones; less than so many times."""

TIMING = [each.name for each in fields(Timing)]
MEASURED = [each.name for each in fields(Measured) if each.name not in ("timing", "disk")]
PRACTICE = Model(hidden=1024, intermediate=1024, layers=1, query_heads=8, key_value_heads=8, vocabulary=64)


@dataclass(frozen=True)
class Run:
    """One contender in one round. `source_pages_left` are those in the page cache just before the clock started."""

    contender: str
    round: int
    measured: Measured
    source_pages_left: int | None

    @property
    def seconds(self) -> float:
        return self.measured.timing.seconds

    @property
    def elapsed(self) -> float:
        return self.measured.timing.elapsed

    @property
    def processor_seconds(self) -> float:
        return self.measured.timing.user_seconds + self.measured.timing.system_seconds

    def to_json(self) -> dict[str, Any]:
        measured = asdict(self.measured)
        timing = {name: value for name, value in measured.pop("timing").items() if value is not None}
        return {
            "contender": self.contender, "round": self.round, **timing, **measured,
            "source_pages_left": self.source_pages_left,
        }  # fmt: skip

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Run":
        timing = Timing(**{name: data[name] for name in TIMING if name in data})
        disk = DiskUse(**data["disk"]) if data["disk"] else None
        measured = {name: data[name] for name in MEASURED}
        return cls(
            data["contender"], data["round"], Measured(timing=timing, disk=disk, **measured), data["source_pages_left"]
        )


@dataclass
class CaseRuns:
    """What came of a case so far, on the machine that `machine` describes."""

    case: Case
    source_bytes: int
    runs: list[Run] = field(default_factory=list)
    machine: Mapping[str, str] = field(default_factory=dict)

    def of(self, contender: str) -> list[Run]:
        return [run for run in self.runs if run.contender == contender]

    def seconds(self, contender: str) -> dict[int, float]:
        return {run.round: run.seconds for run in self.of(contender)}


class Pace:
    """Tells how far the benchmark is and guesses what is left from what the same contenders took before."""

    def __init__(self) -> None:
        self.began = time.monotonic()
        self.left: list[tuple[str, str]] = []
        self._done: dict[tuple[str, str], list[float]] = {}
        self._total = 0

    def expect(self, case: Case, rounds: int) -> None:
        self.left += [(case.name, c.name) for _, c in schedule(case, rounds)]
        self._total = len(self.left)

    def forget(self, case: Case) -> None:
        """It is not run."""
        self.left = [each for each in self.left if each[0] != case.name]

    def done(self, case: str, contender: str, seconds: float) -> None:
        self.left.remove((case, contender))
        self._done.setdefault((case, contender), []).append(seconds)

    @property
    def position(self) -> str:
        return f"{self._total - len(self.left):>3}/{self._total}"

    @property
    def seconds_left(self) -> float:
        everything = [seconds for several in self._done.values() for seconds in several]
        usual = sum(everything) / len(everything) if everything else 0.0
        known = {key: sum(several) / len(several) for key, several in self._done.items()}
        return sum(known.get(key, usual) for key in self.left)


def schedule(case: Case, rounds: int) -> Iterator[tuple[int, Contender]]:
    """(round, contender), in the order of a fixed draw, in which none that fills memory comes right after another: the
    second was seen to take up to twice as long, whichever of the two it was."""
    draw = random.Random(f"{ORDER_SEED} {case.name}")  # noqa: S311 (an order, not a secret)
    before: list[Contender] = []
    for number in range(rounds):
        running = [contender for contender in case.contenders if contender.runs_in(number, rounds)]
        order = draw.sample(running, len(running))
        while _can_be_apart(running) and not _are_apart(before + order):
            order = draw.sample(running, len(running))
        before = order[-1:]
        yield from ((number, contender) for contender in order)


def _can_be_apart(contenders: Sequence[Contender]) -> bool:
    return 2 * sum(contender.fills_memory for contender in contenders) <= len(contenders)


def _are_apart(contenders: Sequence[Contender]) -> bool:
    return not any(one.fills_memory and following.fills_memory for one, following in pairwise(contenders))


@dataclass
class Bench:
    """A folder for everything large, and the filler of memory."""

    scratch: Path
    filler: Filler | TouchedMemory
    patience: Patience
    pace: Pace = field(default_factory=Pace)

    def run(self, case: Case, rounds: int, keep: bool) -> CaseRuns:
        """Raises BenchFailed."""
        print(f"\n{case.title}: {case.model.nbytes / 1e9:.1f} GB", flush=True)
        source = self.scratch / f"{case.name}-{case.model.nbytes}"
        began = time.monotonic()
        if case.headers_only:
            write_headers(source, case.model)
        else:
            ensure_checkpoint(source, case.model)
        print(f"  checkpoint there after {time.monotonic() - began:.0f} s", flush=True)
        written = int(OUTPUT_FACTOR * case.model.nbytes)
        if any(contender.writes for contender in case.contenders):
            require_space(self.scratch, written * (2 if case.sealed else 1), "What is written from the checkpoint")
        result = CaseRuns(case, case.model.nbytes)
        try:
            if case.sealed:
                self._seal(case.sealed, source)
                self._seal(case.sealed, self._practice(case))
            for number, contender in schedule(case, rounds_of(case, rounds)):
                result.runs.append(self._run(case, contender, number, source))
        finally:
            if not keep:
                shutil.rmtree(source, ignore_errors=True)
                shutil.rmtree(volume_next_to(source), ignore_errors=True)
        return result

    def _seal(self, neuron_config: Mapping[str, Any], source: Path) -> None:
        """Seals again, so that the result is of this checkpoint and by this code."""
        shutil.rmtree(volume_next_to(source), ignore_errors=True)
        run_contender("seal", Task(source, self.scratch / "output", neuron_config), lambda: None)

    def _run(self, case: Case, contender: Contender, number: int, source: Path) -> Run:
        began = time.monotonic()
        output = self.scratch / "output"
        practice = None if case.headers_only else self._practice(case)
        if contender.reads_shards and practice:
            source, practice = rank_files(source), rank_files(practice)
        task = Task(source, output, contender.neuron_config, contender.options, practice, contender.processors)
        left: list[int | None] = []

        def make_quiet() -> None:
            self.filler.fill(self.patience.fill)
            wait_for_idle_disk(self.scratch, self.patience.idle)
            left.append(evict(task.evicted_files))

        evict(task.evicted_files)
        try:
            measured = run_contender(contender.module, task, make_quiet, contender.environment)
        finally:
            shutil.rmtree(output, ignore_errors=True)
        run = Run(contender.name, number, measured, left[0])
        self.pace.done(case.name, contender.name, time.monotonic() - began)
        print(self._line(case, run), flush=True)
        return run

    def _practice(self, case: Case) -> Path:
        """A small model of the same kind."""
        model = replace(PRACTICE, experts=min(case.model.experts, 2))
        return ensure_checkpoint(self.scratch / f"practice-{model.nbytes}", model)

    def _line(self, case: Case, run: Run) -> str:
        gone, left = time.monotonic() - self.pace.began, self.pace.seconds_left
        return (
            f"  {self.pace.position}  {case.name} round {run.round + 1}: {run.contender:<24} {run.seconds:7.2f} s"
            f" {run.processor_seconds:6.2f} CPU s {run.measured.peak_anonymous_bytes / 2**30:6.2f} GiB"
            f"   {gone / 60:.1f} min gone, {left / 60:.1f} left"
        )


def rank_files(checkpoint: Path) -> Path:
    """The folder of the files that were sealed for the checkpoint, on the volume next to it."""
    found = list(volume_next_to(checkpoint).glob("shards/*/weights"))
    if len(found) != 1:
        raise BenchFailed(
            f"{volume_next_to(checkpoint)} holds {len(found)} sets of shards. Remove it, and start again."
        )
    return found[0]
