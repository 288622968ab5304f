"""The report of a worker: served at `/status` while it runs, and its termination message when it ends."""

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
"""The most characters of `Result.missed`."""
MAX_PHASES: Final = 64
MAX_NOTES: Final = 4
MAX_NOTE: Final = 300
"""The most characters of a note, and of a sentence in a choice."""

# A worker runs a user's image: what the definition would refuse in status is no report. Bounds may grow, not shrink.
Word = Annotated[str, StringConstraints(pattern=r"^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$", max_length=128)]
Name = Annotated[str, StringConstraints(max_length=256)]
Amount = Annotated[int, Field(ge=0, lt=2**63)]
Sentence = Annotated[str, StringConstraints(max_length=MAX_NOTE)]
Cache = Literal["Hit", "Miss"]
Tier = Literal["Source", "Artifacts", "Scratch"]
"""Where a start loaded the weights from: the checkpoint, the artifacts volume, or the copy on the scratch volume."""
Milliseconds = Annotated[int, Field(ge=0, lt=2**40)]
"""Up to 34 years, so that it can still be added to a date."""


class Stage(StrEnum):
    PREPARE = "Prepare"
    SERVE = "Serve"
    CLEANUP = "Cleanup"


class State(StrEnum):
    RUNNING = "Running"
    """Starting; for prepare: working."""
    READY = "Ready"
    """Serve only: the worker answers. Prepare and cleanup end in SUCCEEDED instead."""
    DRAINING = "Draining"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"


class PhaseReport(Tolerant):
    """One phase, measured by the worker's monotonic clock, which is anchored to the wall clock at its first line."""

    name: Word
    """A member of `StartPhase`, or a word of another worker."""
    started_at: AwareDatetime
    milliseconds: Milliseconds
    """Its share of the wall time: the phases of one report do not overlap."""
    busy_milliseconds: Milliseconds | None = None
    """Including what ran in parallel; None if it is the same."""
    bytes: Amount | None = None


class Progress(Tolerant):
    """Progress of the current phase."""

    phase: Word
    started_at: AwareDatetime
    done: Amount = 0
    total: Amount | None = None
    unit: str = "Bytes"
    """Bytes or Steps."""


class Failure(Tolerant):
    reason: Word
    """The reason of a condition: a member of `Reason`, or a word of another worker."""
    message: str
    """What is wrong, where, and what to do."""
    final: bool = False
    """Whether retrying without a change is useless."""


class Choice(Tolerant):
    """What `Auto` chose, and from what: docs/strategies.md has the formula."""

    strategy: Strategy
    reason: Word
    message: Sentence
    source_bytes: Amount
    shard_bytes: Amount
    load_bytes_per_second: Amount
    """Of the checkpoint, if a start shards it."""
    read_bytes_per_second: Amount
    """Of sealed shards."""
    write_bytes_per_second: Amount
    starts_per_source: Annotated[str, StringConstraints(pattern=r"^[0-9]{1,6}(\.[0-9]{1,2})?$")]
    """A decimal: how often the same weights are expected to be loaded."""
    on_compile_milliseconds: Milliseconds
    """The expected loading time of a start, including its share of building."""
    on_load_milliseconds: Milliseconds
    """The expected loading time of a start."""


class Sizing(Tolerant):
    """What a start of the model needs, known from the plan; in bytes, and for all ranks of the pod unless stated."""

    host_memory_bytes: Amount
    """Memory of the pod, including /dev/shm, without the page cache."""
    shared_memory_bytes: Amount = 0
    """Size of /dev/shm; 0 if the container runtime's default is enough."""
    scratch_bytes: Amount = 0
    """Caches and temporary files on the scratch volume, whether the spec names it or not."""
    copy_bytes: Amount = 0
    """The copy of the loaded files that a scratch volume named by the spec keeps in addition; 0 if there is none."""
    rank_bytes: Amount
    """Weights of one rank on its logical core."""
    cache_bytes: Amount = 0
    """Key/value cache of one rank."""
    reserve_bytes: Amount = 0
    """Memory of a logical core that is reserved for code, scratchpad, rings and collectives."""
    core_bytes: Amount | None = None
    """Memory of a logical core on the machine; None if it is unknown or there is no device."""
    estimated: bool = False
    """Whether the ranks were not planned: their bytes are estimated from the checkpoint's, and nothing is rejected
    because of them."""


class Devices(Tolerant):
    """The accelerators that a worker found, and the versions of their software."""

    count: Amount
    """Devices that are visible in the pod."""
    cores: Amount
    """Logical cores of these devices."""
    logical_core_config: Amount | None = None
    driver: Name | None = None
    versions: Annotated[dict[Name, Name], Field(max_length=16)] = Field(default_factory=dict)
    """Versions of the SDK's packages, by name."""


class ResolvedSource(Tolerant):
    """The commit of a repository that prepare read, whatever its branch does later."""

    revision: Name
    """The commit."""
    files: Amount
    """How many files of weights the checkpoint has."""
    bytes: Amount
    resolved_at: AwareDatetime
    """When prepare found the revision at this commit; if the server could not be reached, when that was before."""


class SourceTraffic(Tolerant):
    """What a worker has asked a source on a network for."""

    bytes: Amount = 0
    bytes_per_second: Amount | None = None
    """Over the time in which reads were under way."""
    requests: Amount = 0
    retries: Amount = 0
    limited_milliseconds: Milliseconds = 0
    """How long it waited because the server limits the rate of requests."""
    is_limited: bool = False
    """Whether it waits for that now."""
    is_failing: bool = False
    """Whether the latest attempts failed, and others follow."""


class ServerKind(StrEnum):
    """What vLLM loads and runs models with."""

    NXD_INFERENCE = "NxDInference"
    """The Neuron plugin 0.2 to 0.5."""
    VLLM_NEURON = "VLLMNeuron"
    """The Neuron plugin from 0.21 on, without NxD Inference."""
    VLLM = "VLLM"
    """vLLM itself."""
    UNKNOWN = "Unknown"
    """A Neuron plugin that is neither."""


class InstalledServer(Tolerant):
    """The vLLM that an image has."""

    kind: Word
    """A member of `ServerKind`, or a word of another worker."""
    version: Name
    """The version of the Neuron plugin, or of vLLM if there is none."""
    vllm_version: Name | None = None
    """If there is a plugin."""

    @property
    def description(self) -> str:
        vllm = self.vllm_version or "of an unknown version"
        if self.kind == ServerKind.NXD_INFERENCE:
            return f"vLLM {vllm} with its Neuron plugin {self.version}, which runs NxD Inference"
        if self.kind == ServerKind.VLLM_NEURON:
            return f"vLLM Neuron {self.version} with vLLM {vllm}"
        if self.kind == ServerKind.VLLM:
            return f"vLLM {self.version} without a plugin for Neuron"
        return f"vLLM {vllm} with a Neuron plugin {self.version}"


class MissCause(StrEnum):
    """Why prepare had to build a set."""

    NEW_VOLUME = "NewVolume"
    """The artifacts volume has no set at all."""
    NOT_THERE = "NotThere"
    """It has none of this key, and none that comes near."""
    SOURCE_CHANGED = "SourceChanged"
    """The content of the weights differs from that of the nearest set."""
    INPUTS_CHANGED = "InputsChanged"
    """The spec, the image or the machine differ from those of the nearest set."""
    DAMAGED = "Damaged"
    """It failed its check, and was quarantined."""


class Result(Tolerant):
    """What prepare found or built."""

    source_fingerprint: Name
    """A fingerprint of names, sizes and times."""
    source_content: Name | None = None
    """An ID that is the same while the weights are the same, as far as prepare could tell without reading them only for
    that."""
    model_type: Name
    compiled_key: Name
    shards_key: Name | None = None
    """None with ShardOnLoad."""
    strategy: Strategy | None = None
    """The strategy in force: the requested one, or the one that Auto chose."""
    choice: Choice | None = None
    """Only set with Auto."""
    cache: Cache
    """Hit if nothing had to be built, else Miss."""
    compiled_cache: Cache | None = None
    shards_cache: Cache | None = None
    """None with ShardOnLoad, and while shards that are sealed behind do not exist yet."""
    missed: Annotated[str, StringConstraints(max_length=MAX_MISSED)] | None = None
    """On a miss, what was built and why, in a sentence."""
    missed_because: Word | None = None
    """On a miss, why: a member of `MissCause`, or a word of another worker; of the shards, if both sets were built."""
    bytes: Amount = 0
    """Size of the artifacts in use."""
    source_bytes: Amount = 0
    source: ResolvedSource | None = None
    """Only set where the source is a repository."""
    sizing: Sizing | None = None
    """None if the worker does not report it."""
    server: InstalledServer | None = None
    """The vLLM that will serve; None if the worker serves itself, or does not report it."""
    quarantined: Annotated[tuple[Sentence, ...], Field(max_length=MAX_NOTES)] = ()
    """Why sets failed their check and were quarantined, one sentence each."""
    quarantined_in_missed: Amount | None = None
    """How many of these, the first ones, are included in `missed` because something was rebuilt for them. None if there
    are none, or if the worker does not report it."""

    @property
    def quarantined_besides(self) -> tuple[Sentence, ...]:
        """The sentences that are not included in `missed`."""
        if self.quarantined_in_missed is None:
            # Workers that do not report the number include the sentences in `missed` verbatim.
            return tuple(each for each in self.quarantined if each.removesuffix(".") not in (self.missed or ""))
        return self.quarantined[self.quarantined_in_missed :]


class Note(Tolerant):
    """Something that did not stop a start but is worth knowing."""

    reason: Word
    message: Sentence


class SealingState(StrEnum):
    PENDING = "Pending"
    """The shards are in memory."""
    WRITING = "Writing"
    SEALED = "Sealed"
    FAILED = "Failed"


class Sealing(Tolerant):
    """The progress of a worker that seals behind."""

    state: SealingState
    done: Amount = 0
    """Bytes that have been written."""
    total: Amount = 0
    started_at: AwareDatetime | None = None
    ended_at: AwareDatetime | None = None
    message: Sentence = ""
    """Why it failed."""


class DiskRates(Tolerant):
    """Rates of the volume that was read or written most; `probed…` is what a probe of it measured."""

    read_bytes_per_second: Amount | None = None
    write_bytes_per_second: Amount | None = None
    probed_read_bytes_per_second: Amount | None = None
    probed_write_bytes_per_second: Amount | None = None


class Report(Tolerant):
    """The report of one run of a container. Times are wall clock, UTC."""

    pod_uid: str
    spec_hash: str
    stage: Stage
    state: State
    started_at: AwareDatetime
    """When the worker's first line ran."""
    ready_at: AwareDatetime | None = None
    ended_at: AwareDatetime | None = None
    phases: Annotated[tuple[PhaseReport, ...], Field(max_length=MAX_PHASES)] = ()
    progress: Progress | None = None
    failure: Failure | None = None
    result: Result | None = None
    disk: DiskRates | None = None
    tier: Tier | None = None
    """Serve only: where the weights were loaded from."""
    notes: Annotated[tuple[Note, ...], Field(max_length=MAX_NOTES)] = ()
    sealing: Sealing | None = None
    """Serve only, if it seals behind."""
    devices: Devices | None = None
    """Serve only, with an engine that has devices."""
    source_traffic: SourceTraffic | None = None
    """Only set where the source is on a network and was asked for something."""
    latest_revision: Name | None = None
    """Serve only: the commit that the repository's revision was at when that was last asked."""

    def termination_message(self) -> str:
        """Returns JSON of at most MAX_TERMINATION_BYTES: a long message is shortened, then phases are dropped, oldest
        first, then notes, devices and sentences of the result. The fields that are needed to proceed are always
        complete."""
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
    """Returns the parsed report. Raises pydantic.ValidationError (a ValueError) for anything else."""
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
    "InstalledServer",
    "MissCause",
    "Note",
    "PhaseReport",
    "Progress",
    "Report",
    "ResolvedSource",
    "Result",
    "Sealing",
    "SealingState",
    "ServerKind",
    "Sizing",
    "SourceTraffic",
    "Stage",
    "State",
    "parse_report",
]
