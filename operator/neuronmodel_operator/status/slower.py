"""Whether a start took longer than the model's own starts usually do, which phase grew, and what the disk did
meanwhile."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Final

from neuronmodel_api.phases import WAITS
from neuronmodel_api.reasons import Reason
from neuronmodel_api.report import MAX_NOTE, MAX_NOTES
from neuronmodel_api.status import Disk, Outcome, RecordedPhase, Start, StartNote
from neuronmodel_operator.status.timeline import load_milliseconds
from neuronmodel_operator.wording import shortened

FEWEST_STARTS: Final = 3
"""Starts of one kind, that which is judged included; with fewer nothing is usual."""
FACTOR: Final = 1.5
"""How much longer than the median a start may take."""


@dataclass(frozen=True)
class Slower:
    """How a start compares with the others of its kind. Times are in milliseconds."""

    milliseconds: int
    usual: int
    """The median of all starts of its kind, this one included."""
    num_starts: int
    phase: RecordedPhase
    """The one that grew most."""
    usual_phase: int
    rate: str
    """What the disk did in this start and usually does, in words; empty where nobody measured it."""

    def note(self) -> StartNote:
        took = (
            f"This start took {_seconds(self.milliseconds)}, {self.milliseconds / max(self.usual, 1):.1f} times the "
            f"median of the last {self.num_starts} of its kind ({_seconds(self.usual)}). "
        )
        grew = (
            f"{self.phase.name} ({self.phase.stage}) grew most: {_seconds(self.phase.milliseconds)}, usually "
            f"{_seconds(self.usual_phase)}."
        )
        return StartNote(Reason.SLOWER_THAN_USUAL, shortened(f"{took}{grew} {self.rate}", MAX_NOTE))


def slower(start: Start, others: Iterable[Start]) -> Slower | None:
    """Compares a start that has ended well with the model's other starts, and returns None where it is as fast as
    usual, or where too few are of its kind to say what is usual."""
    if not _is_of_a_kind(start):
        return None
    peers = [each for each in others if _is_of_a_kind(each) and _kind(each) == _kind(start)]
    everyone = [start, *peers]
    if len(everyone) < FEWEST_STARTS:
        return None
    usual = median(_load(each) for each in everyone)
    if _load(start) <= FACTOR * usual:
        return None
    phase, usual_phase = _grown(start, everyone)
    return Slower(_load(start), round(usual), len(everyone), phase, usual_phase, _disk_sentence(start, peers))


def with_note(start: Start, others: Iterable[Start]) -> Start:
    """Returns the start with a note where it was slower than usual, and without one where it was not. Where notes are
    as many as there may be, the oldest gives way."""
    kept = tuple(note for note in start.notes if StartNote.read(note).reason != Reason.SLOWER_THAN_USUAL)
    found = slower(start, others)
    if found is None:
        return start if len(kept) == len(start.notes) else start.model_copy(update={"notes": kept})
    return start.model_copy(update={"notes": (*kept, str(found.note()))[-MAX_NOTES:]})


def _is_of_a_kind(start: Start) -> bool:
    return start.outcome is Outcome.READY and load_milliseconds(start) is not None and bool(start.phases)


def _kind(start: Start) -> tuple[object, ...]:
    """What has to be equal for two starts to be comparable."""
    return start.cause, start.strategy, start.cache, start.tier, start.instance_type


def _load(start: Start) -> int:
    return load_milliseconds(start) or 0


def _grown(start: Start, everyone: Sequence[Start]) -> tuple[RecordedPhase, int]:
    """Returns the phase that grew most over its median, all attempts together, and that median."""
    usual = {key: round(median(_by_phase(each).get(key, 0) for each in everyone)) for key in _by_phase(start)}
    took = _by_phase(start)
    key = max(took, key=lambda key: took[key] - usual[key])
    first = next(phase for phase in start.phases if (phase.stage, phase.name) == key)
    return first.model_copy(update={"milliseconds": took[key]}), usual[key]


def _by_phase(start: Start) -> dict[tuple[object, str], int]:
    """Returns milliseconds by stage and phase, without the time that the start waited for somebody."""
    total: dict[tuple[object, str], int] = {}
    for phase in start.phases:
        if phase.name not in WAITS:
            total[phase.stage, phase.name] = total.get((phase.stage, phase.name), 0) + phase.milliseconds
    return total or {(start.phases[0].stage, start.phases[0].name): 0}


_RATES: Final[tuple[tuple[str, Callable[[Disk], int | None], Callable[[Disk], int | None]], ...]] = (
    ("read", lambda disk: disk.read_bytes_per_second, lambda disk: disk.probed_read_bytes_per_second),
    ("wrote", lambda disk: disk.write_bytes_per_second, lambda disk: disk.probed_write_bytes_per_second),
)


def _disk_sentence(start: Start, peers: Sequence[Start]) -> str:
    if start.disk is None:
        return ""
    parts = []
    for verb, reached, probed in _RATES:
        if (rate := reached(start.disk)) is None:
            continue
        context = []
        if usual := [known for peer in peers if peer.disk and (known := reached(peer.disk)) is not None]:
            context.append(f"usually {_rate(median(usual))}")
        if (probe := probed(start.disk)) is not None:
            context.append(f"its probe: {_rate(probe)}")
        parts.append(f"{verb} {_rate(rate)}" + (f" ({', '.join(context)})" if context else ""))
    return f"Meanwhile the disk {' and '.join(parts)}." if parts else ""


def _seconds(milliseconds: float) -> str:
    return f"{milliseconds / 1000:.1f} s"


def _rate(rate: float) -> str:
    return f"{rate / 1e9:.2f} GB/s" if rate >= 1e9 else f"{rate / 1e6:.0f} MB/s"
