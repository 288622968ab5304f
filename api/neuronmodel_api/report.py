"""What a worker says of itself: at `/status` while it runs, in its termination message when it ends."""

import json
from enum import StrEnum
from typing import Annotated, Final, Literal

from pydantic import AwareDatetime, Field, StringConstraints

from neuronmodel_api.config import Strategy
from neuronmodel_api.model import Tolerant

MAX_REPORT_BYTES: Final = 64 * 1024
MAX_TERMINATION_BYTES: Final = 4095
"""The kubelet cuts a termination message at 4096 bytes."""
MAX_MISSED: Final = 800
"""Characters of `Result.missed`."""
MAX_PHASES: Final = 64
MAX_NOTES: Final = 4
MAX_NOTE: Final = 300
"""Characters of a note, and of a sentence in a choice."""

# A worker runs a user's image: what the definition would refuse in status is no report. Bounds may grow, not shrink.
Word = Annotated[str, StringConstraints(pattern=r"^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$", max_length=128)]
Name = Annotated[str, StringConstraints(max_length=256)]
Amount = Annotated[int, Field(ge=0, lt=2**63)]
Sentence = Annotated[str, StringConstraints(max_length=MAX_NOTE)]
Cache = Literal["Hit", "Miss"]
Tier = Literal["Source", "Artifacts", "Scratch"]
"""What a start loaded the weights from: the checkpoint, the artifacts volume, or the copy on the scratch volume."""
Milliseconds = Annotated[int, Field(ge=0, lt=2**40)]
"""Up to 34 years: what a date can still be added to."""


class Stage(StrEnum):
    PREPARE = "Prepare"
    SERVE = "Serve"
    CLEANUP = "Cleanup"


class State(StrEnum):
    RUNNING = "Running"
    """Starting; for prepare: at work."""
    READY = "Ready"
    """Serve: answers. Prepare and cleanup end in SUCCEEDED instead."""
    DRAINING = "Draining"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"


class PhaseReport(Tolerant):
    """One phase by the worker's monotonic clock, laid over its wall clock at the first line."""

    name: Word
    """A member of `StartPhase`, or another worker's word."""
    started_at: AwareDatetime
    milliseconds: Milliseconds
    """Share of the wall time: the phases of one report do not overlap."""
    busy_milliseconds: Milliseconds | None = None
    """With what ran beside it; None: the same."""
    bytes: Amount | None = None


class Progress(Tolerant):
    """The phase under way."""

    phase: Word
    started_at: AwareDatetime
    done: Amount = 0
    total: Amount | None = None
    unit: str = "Bytes"
    """Bytes or Steps."""


class Failure(Tolerant):
    reason: Word
    """Becomes a condition's reason: a member of `Reason`, or another worker's word."""
    message: str
    """What was wrong, where, what to do."""
    final: bool = False
    """Trying again without a change is useless."""


class Choice(Tolerant):
    """What `Auto` chose, and from what: docs/strategies.md has the formula."""

    strategy: Strategy
    reason: Word
    message: Sentence
    source_bytes: Amount
    shard_bytes: Amount
    load_bytes_per_second: Amount
    """Of the checkpoint, when a start shards it."""
    read_bytes_per_second: Amount
    """Of sealed shards."""
    write_bytes_per_second: Amount
    starts_per_source: Annotated[str, StringConstraints(pattern=r"^[0-9]{1,6}(\.[0-9]{1,2})?$")]
    """A decimal: how often the same weights are expected to be loaded."""
    on_compile_milliseconds: Milliseconds
    """Expected for loading, a start: with building's share."""
    on_load_milliseconds: Milliseconds
    """Expected for loading, a start."""


class Sizing(Tolerant):
    """What a start of the model needs, known from the plan; in bytes, and for all ranks of the pod unless said."""

    host_memory_bytes: Amount
    """Of the pod, with what it keeps in /dev/shm; without the page cache."""
    shared_memory_bytes: Amount = 0
    """Of /dev/shm; 0: the container runtime's own is enough."""
    scratch_bytes: Amount = 0
    """Of caches and temporary files on the scratch volume, whoever named it."""
    copy_bytes: Amount = 0
    """Of the copy of what is loaded that a scratch volume keeps beside them where the spec names one; 0: none is."""
    rank_bytes: Amount
    """Of one rank's weights on its logical core."""
    cache_bytes: Amount = 0
    """Of one rank's key/value cache."""
    reserve_bytes: Amount = 0
    """Of a logical core's memory, left for code, scratchpad, rings and collectives."""
    core_bytes: Amount | None = None
    """What a logical core has on the machine; None: not known, or no device."""
    estimated: bool = False
    """Nobody planned the ranks: their bytes are guessed from the checkpoint's, and nothing is refused for them."""


class Devices(Tolerant):
    """What a worker found of the accelerator, and the versions of what drives it."""

    count: Amount
    """Devices that the pod sees."""
    cores: Amount
    """Logical cores that they make."""
    logical_core_config: Amount | None = None
    driver: Name | None = None
    versions: Annotated[dict[Name, Name], Field(max_length=16)] = Field(default_factory=dict)
    """Of the packages of the SDK, by their names."""


class Result(Tolerant):
    """What prepare found or made."""

    source_fingerprint: Name
    """Of names, sizes and times."""
    source_content: Name | None = None
    """The same as long as the weights are the same, as far as prepare could tell without reading them in vain."""
    model_type: Name
    compiled_key: Name
    shards_key: Name | None = None
    """None with ShardOnLoad."""
    strategy: Strategy | None = None
    """In force: what was asked for, or what Auto chose."""
    choice: Choice | None = None
    """With Auto."""
    cache: Cache
    """Hit: nothing had to be built; Miss."""
    compiled_cache: Cache | None = None
    shards_cache: Cache | None = None
    """None with ShardOnLoad, and where shards are sealed behind and not there yet."""
    missed: Annotated[str, StringConstraints(max_length=MAX_MISSED)] | None = None
    """On a miss, what was built and why, in a sentence."""
    bytes: Amount = 0
    """Of the artifacts in use."""
    source_bytes: Amount = 0
    sizing: Sizing | None = None
    """None: of a worker that does not tell."""
    quarantined: Annotated[tuple[Sentence, ...], Field(max_length=MAX_NOTES)] = ()
    """Why sets failed their check and were set aside, a sentence each."""
    quarantined_in_missed: Amount | None = None
    """How many of these, the first ones, are why something was built, so that `missed` has them. None: there are none,
    or the worker does not say."""

    @property
    def quarantined_besides(self) -> tuple[Sentence, ...]:
        """Those that `missed` does not have."""
        if self.quarantined_in_missed is None:
            # As a worker that does not say how many puts it, its sentence has theirs.
            return tuple(each for each in self.quarantined if each.removesuffix(".") not in (self.missed or ""))
        return self.quarantined[self.quarantined_in_missed :]


class Note(Tolerant):
    """What did not keep a start from going on, and is worth knowing."""

    reason: Word
    message: Sentence


class SealingState(StrEnum):
    PENDING = "Pending"
    """The shards are in memory."""
    WRITING = "Writing"
    SEALED = "Sealed"
    FAILED = "Failed"


class Sealing(Tolerant):
    """How far a worker is that seals behind."""

    state: SealingState
    done: Amount = 0
    """Bytes that are written."""
    total: Amount = 0
    started_at: AwareDatetime | None = None
    ended_at: AwareDatetime | None = None
    message: Sentence = ""
    """Why it failed."""


class DiskRates(Tolerant):
    """Of the volume that was read or written most; `probed…` is what a probe of it found it can do."""

    read_bytes_per_second: Amount | None = None
    write_bytes_per_second: Amount | None = None
    probed_read_bytes_per_second: Amount | None = None
    probed_write_bytes_per_second: Amount | None = None


class Report(Tolerant):
    """The report of one container's run. Times are wall clock, UTC."""

    pod_uid: str
    spec_hash: str
    stage: Stage
    state: State
    started_at: AwareDatetime
    """The worker's first line."""
    ready_at: AwareDatetime | None = None
    ended_at: AwareDatetime | None = None
    phases: Annotated[tuple[PhaseReport, ...], Field(max_length=MAX_PHASES)] = ()
    progress: Progress | None = None
    failure: Failure | None = None
    result: Result | None = None
    disk: DiskRates | None = None
    tier: Tier | None = None
    """Serve: what the weights were loaded from."""
    notes: Annotated[tuple[Note, ...], Field(max_length=MAX_NOTES)] = ()
    sealing: Sealing | None = None
    """Serve, where it seals behind."""
    devices: Devices | None = None
    """Serve, with an engine that has some."""

    def termination_message(self) -> str:
        """As JSON of at most MAX_TERMINATION_BYTES: a long message is shortened, then phases go, the oldest first, then
        notes, devices and sentences of the result. What is read of it to go on stays whole."""
        report = self
        for limit in (2000, 500, 100):
            if report.failure and len(report.failure.message) > limit:
                cut = report.failure.message[: limit - 1] + "…"
                report = report.model_copy(update={"failure": report.failure.model_copy(update={"message": cut})})
            if len(encoded := _compact(report)) <= MAX_TERMINATION_BYTES:
                return encoded.decode()
        while report.phases and len(_compact(report)) > MAX_TERMINATION_BYTES:
            report = report.model_copy(update={"phases": report.phases[1:]})
        while report.notes and len(_compact(report)) > MAX_TERMINATION_BYTES:
            report = report.model_copy(update={"notes": report.notes[1:]})
        if len(_compact(report)) > MAX_TERMINATION_BYTES:
            report = report.model_copy(update={"devices": None})
        for shorter in _SHORTER_RESULTS:
            if report.result and len(_compact(report)) > MAX_TERMINATION_BYTES:
                report = report.model_copy(update={"result": report.result.model_copy(update=shorter)})
        return _compact(report).decode()


def parse_report(raw: str | bytes) -> Report:
    """Raises pydantic.ValidationError (a ValueError) for anything that is not a report."""
    return Report.model_validate_json(raw)


_SHORTER_RESULTS: Final[tuple[dict[str, object], ...]] = (
    {"missed": None, "quarantined_in_missed": 0},
    {"quarantined": ()},
    {"choice": None},
)


def _compact(report: Report) -> bytes:
    return json.dumps(report.to_json(), separators=(",", ":"), ensure_ascii=False).encode()


__all__ = [
    "MAX_REPORT_BYTES",
    "MAX_TERMINATION_BYTES",
    "Choice",
    "Devices",
    "DiskRates",
    "Failure",
    "Note",
    "PhaseReport",
    "Progress",
    "Report",
    "Result",
    "Sealing",
    "SealingState",
    "Sizing",
    "Stage",
    "State",
    "parse_report",
]
