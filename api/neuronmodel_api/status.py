"""`status` of a NeuronModel: what the operator writes and users read."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Literal, Self

from pydantic import Field

from neuronmodel_api.conditions import ConditionType
from neuronmodel_api.config import Strategy
from neuronmodel_api.model import Tolerant
from neuronmodel_api.report import Stage, Tier


class Phase(StrEnum):
    """A summary for people; programs read the conditions."""

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
    """What `Auto` based its choice on; `neuronmodel_api.report.Choice` describes the fields."""

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
    """Specified, NotChosenYet, or the reason of the choice."""
    message: str | None = None
    inputs: ChoiceInputs | None = None
    """Only set with Auto, once it has chosen."""


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
    missed_because: str | None = None
    """A member of `neuronmodel_api.report.MissCause`, or a word of another worker."""
    bytes: int | None = None
    server: str | None = None
    """The image's vLLM and its plugin, with versions; None if the worker serves itself."""
    sealing: str | None = None
    """Pending, Writing, Sealed or Failed, where shards are sealed behind."""


class SizingStatus(Tolerant):
    """What a start needs, from the plan; `neuronmodel_api.report.Sizing` describes the fields."""

    host_memory_bytes: int
    shared_memory_bytes: int
    scratch_bytes: int
    copy_bytes: int
    rank_bytes: int
    cache_bytes: int
    reserve_bytes: int
    core_bytes: int | None = None
    estimated: bool = False


class SourceStatus(Tolerant):
    """The repository's commit that is served; `neuronmodel_api.report.ResolvedSource` describes the fields."""

    revision: str
    files: int
    bytes: int
    resolved_at: datetime
    latest_revision: str | None = None
    """The commit that the revision was at when a worker asked last."""


class SourceTransfer(Tolerant):
    """What was read of a source on a network; `neuronmodel_api.report.SourceTraffic` describes the fields."""

    bytes: int
    bytes_per_second: int | None = None
    requests: int
    retries: int
    limited_milliseconds: int


class WaitsFor(StrEnum):
    """What of a source on a network a worker waits for."""

    RATE_LIMIT = "RateLimit"
    SOURCE = "Source"
    """It does not answer, and is tried again."""


class WorkerProgress(Tolerant):
    stage: Stage
    phase: str
    started_at: datetime
    percent: int | None = None
    updated_at: datetime | None = None
    """When `percent` was last written: it moves by 5 or more, and at most every 30 seconds."""
    bytes: int | None = None
    total_bytes: int | None = None
    source: SourceTransfer | None = None
    """Only set where the source is on a network."""
    waits_for: WaitsFor | None = None


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
    """The time between two boundaries of a start; all of them add up to its total."""

    stage: Stage
    attempt: int = 1
    name: str
    """A member of `StartPhase`, or a word of another worker."""
    reason: str | None = None
    """For Blocked: the reason."""
    started_at: datetime
    milliseconds: int
    busy_milliseconds: int | None = None
    bytes: int | None = None
    bytes_per_second: int | None = None


class DevicesStatus(Tolerant):
    """The accelerators that the worker found."""

    count: int
    cores: int
    logical_neuron_core_config: int | None = None
    driver_version: str | None = None
    versions: dict[str, str] = Field(default_factory=dict)


@dataclass(frozen=True)
class StartNote:
    """One of `Start.notes`: something that did not stop a start."""

    reason: str
    message: str

    @classmethod
    def read(cls, text: str) -> Self:
        reason, _, message = text.partition(": ")
        return cls(reason, message)

    def __str__(self) -> str:
        return f"{self.reason}: {self.message}"


class Start(Tolerant):
    """A start, from its cause to Ready."""

    id: str
    """Pod UID and restart count, `<uid>/<count>`; `target-<hash of the spec>` until a serving pod exists."""
    cause: Cause
    outcome: Outcome
    reason: str | None = None
    pod_name: str | None = None
    node_name: str | None = None
    strategy: Strategy | None = None
    cache: CacheResult | None = None
    tier: Tier | None = None
    """Where the weights were loaded from."""
    instance_type: str | None = None
    """The instance type that the spec asked for; None with an engine that runs on any node."""
    source_content: str | None = None
    """The content ID of the source that was loaded: starts of the same weights have the same."""
    started_at: datetime
    ready_at: datetime | None = None
    total_milliseconds: int | None = None
    disk: Disk | None = None
    source: SourceTransfer | None = None
    """What prepare and the worker read of a source on a network, once the start has ended."""
    devices: DevicesStatus | None = None
    phases: tuple[RecordedPhase, ...] = ()
    notes: tuple[str, ...] = ()
    """In the form that `StartNote` writes."""


class NeuronModelStatus(Tolerant):
    observed_generation: int | None = None
    phase: Phase | None = None
    conditions: tuple[Condition, ...] = ()
    strategy: StrategyStatus | None = None
    source: SourceStatus | None = None
    """Only set where the source is a repository, once it was resolved."""
    artifacts: ArtifactsStatus | None = None
    sizing: SizingStatus | None = None
    endpoint: str | None = None
    image: str | None = None
    replicas: int | None = None
    selector: str | None = None
    workers: tuple[WorkerStatus, ...] = ()
    progress: str | None = None
    """The phase and percentage of the working worker that is least far."""
    last_load: str | None = None
    """The duration of the latest completed start, without the time that it waited for somebody."""
    last_cache: CacheResult | None = None
    """The cache result of the same start; before one is completed, of the running one."""
    starts: tuple[Start, ...] = ()
    summary: str | None = None
    """What is wrong or what goes on, and what to do, for `kubectl describe`."""

    @property
    def is_ready(self) -> bool:
        ready = self.condition(ConditionType.READY)
        return ready is not None and ready.status == "True"

    def condition(self, kind: ConditionType) -> Condition | None:
        return next((condition for condition in self.conditions if condition.type == kind), None)
