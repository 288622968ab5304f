"""`status` of a NeuronModel: what the operator writes and users read."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Literal, Self

from pydantic import Field

from neuronmodel_api.config import Strategy
from neuronmodel_api.model import Tolerant
from neuronmodel_api.report import Stage, Tier


class ConditionType(StrEnum):
    READY = "Ready"
    """The summary; Unknown while working."""
    SOURCE_RESOLVED = "SourceResolved"
    ARTIFACTS_READY = "ArtifactsReady"
    SCHEDULED = "Scheduled"
    LOADED = "Loaded"
    UPDATE_AVAILABLE = "UpdateAvailable"


class Phase(StrEnum):
    """For people to read; programs read conditions."""

    PENDING = "Pending"
    PREPARING = "Preparing"
    STARTING = "Starting"
    READY = "Ready"
    SUSPENDED = "Suspended"
    FAILED = "Failed"
    TERMINATING = "Terminating"


ConditionStatus = Literal["True", "False", "Unknown"]


class Condition(Tolerant):
    """As metav1.Condition."""

    type: ConditionType
    status: ConditionStatus
    reason: str
    message: str = ""
    last_transition_time: datetime
    observed_generation: int | None = None


class ChoiceInputs(Tolerant):
    """What `Auto` chose from; `neuronmodel_api.report.Choice` says what each is."""

    source_bytes: int
    shard_bytes: int
    load_bytes_per_second: int
    read_bytes_per_second: int
    write_bytes_per_second: int
    starts_per_source: str
    on_compile_milliseconds: int
    on_load_milliseconds: int


class StrategyStatus(Tolerant):
    in_force: Strategy
    """Auto only until `prepare` has chosen."""
    reason: str
    """Specified; NotChosenYet; else the reason of the choice."""
    message: str | None = None
    inputs: ChoiceInputs | None = None
    """With Auto, once it has chosen."""


class CacheResult(StrEnum):
    HIT = "Hit"
    MISS = "Miss"


class ArtifactsStatus(Tolerant):
    claim_name: str | None = None
    compiled_key: str | None = None
    shards_key: str | None = None
    cache: CacheResult | None = None
    """What the latest prepare found."""
    compiled_cache: CacheResult | None = None
    shards_cache: CacheResult | None = None
    missed: str | None = None
    bytes: int | None = None
    sealing: str | None = None
    """Where shards are sealed behind: Pending, Writing, Sealed or Failed."""


class SizingStatus(Tolerant):
    """What a start needs, from the plan; `neuronmodel_api.report.Sizing` says what each is."""

    host_memory_bytes: int
    shared_memory_bytes: int
    scratch_bytes: int
    copy_bytes: int
    rank_bytes: int
    cache_bytes: int
    reserve_bytes: int
    core_bytes: int | None = None
    estimated: bool = False


class WorkerProgress(Tolerant):
    stage: Stage
    phase: str
    started_at: datetime
    percent: int | None = None
    updated_at: datetime | None = None
    """When `percent` was last written: it moves by 5 or more, and at most every 30 seconds."""


class WorkerState(StrEnum):
    PENDING = "Pending"
    """Its container does not run."""
    STARTING = "Starting"
    READY = "Ready"
    DRAINING = "Draining"
    FAILED = "Failed"


class WorkerStatus(Tolerant):
    pod_name: str
    node: str | None = None
    stage: Stage
    state: WorkerState
    progress: WorkerProgress | None = None


class Cause(StrEnum):
    CREATED = "Created"
    SPEC_CHANGED = "SpecChanged"
    POD_REPLACED = "PodReplaced"
    CONTAINER_RESTARTED = "ContainerRestarted"


class Outcome(StrEnum):
    RUNNING = "Running"
    READY = "Ready"
    FAILED = "Failed"


class Disk(Tolerant):
    read_bytes_per_second: int | None = None
    write_bytes_per_second: int | None = None
    probed_read_bytes_per_second: int | None = None
    probed_write_bytes_per_second: int | None = None


class RecordedPhase(Tolerant):
    """A gap between two boundaries of a start; all of them add up to its total."""

    stage: Stage
    attempt: int = 1
    name: str
    """A member of `StartPhase`, or another worker's word."""
    reason: str | None = None
    """Of Blocked: what somebody had to mend."""
    started_at: datetime
    milliseconds: int
    busy_milliseconds: int | None = None
    bytes: int | None = None
    bytes_per_second: int | None = None


class DevicesStatus(Tolerant):
    """What the worker found of the accelerator."""

    count: int
    cores: int
    logical_neuron_core_config: int | None = None
    driver_version: str | None = None
    versions: dict[str, str] = Field(default_factory=dict)


@dataclass(frozen=True)
class StartNote:
    """One of `Start.notes`: what did not keep a start from going on."""

    reason: str
    message: str

    @classmethod
    def read(cls, text: str) -> Self:
        reason, _, message = text.partition(": ")
        return cls(reason, message)

    def __str__(self) -> str:
        return f"{self.reason}: {self.message}"


class Start(Tolerant):
    """From what caused it to Ready."""

    id: str
    """Pod UID and restart count, `<uid>/<count>`; `target-<hash of what is asked for>` until a serving pod exists."""
    cause: Cause
    outcome: Outcome
    reason: str | None = None
    pod_name: str | None = None
    node_name: str | None = None
    strategy: Strategy | None = None
    cache: CacheResult | None = None
    tier: Tier | None = None
    """What the weights were loaded from."""
    source_content: str | None = None
    """Of the source that was loaded: starts of the same weights have the same."""
    started_at: datetime
    ready_at: datetime | None = None
    total_milliseconds: int | None = None
    disk: Disk | None = None
    devices: DevicesStatus | None = None
    phases: tuple[RecordedPhase, ...] = ()
    notes: tuple[str, ...] = ()
    """As `StartNote` writes them."""


class NeuronModelStatus(Tolerant):
    observed_generation: int | None = None
    phase: Phase | None = None
    conditions: tuple[Condition, ...] = ()
    strategy: StrategyStatus | None = None
    artifacts: ArtifactsStatus | None = None
    sizing: SizingStatus | None = None
    endpoint: str | None = None
    image: str | None = None
    replicas: int | None = None
    selector: str | None = None
    workers: tuple[WorkerStatus, ...] = ()
    progress: str | None = None
    """Of the worker at work that is least far: its phase, and how much of it is done."""
    last_load: str | None = None
    """How long the latest completed start took, without the time that it waited for somebody."""
    last_cache: CacheResult | None = None
    """Of the same start; before any is complete, of the one under way."""
    starts: tuple[Start, ...] = ()

    def condition(self, kind: ConditionType) -> Condition | None:
        return next((condition for condition in self.conditions if condition.type == kind), None)
