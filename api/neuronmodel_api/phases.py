"""Every phase of a start: `status.starts[].phases[].name`, and the phase that a worker reports as current.

A phase is part of the contract: its name stays as it is when its text here changes. One entry adds a phase; the
operator, the worker and docs/reference/phases.md take it from here. Where a report or a status is read, a phase may be
any word, as users' images and other versions may use others.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Self

from neuronmodel_api.report import Stage


class MeasuredBy(StrEnum):
    WORKER = "Worker"
    """Measured by the worker's own clock, in its report."""
    OPERATOR = "Operator"
    """Derived from times that Kubernetes and the operator record."""


@dataclass(frozen=True)
class _PhaseEntry:
    word: str
    meaning: str
    remedy: str
    measured_by: MeasuredBy
    stages: tuple[Stage, ...]


def _worker(word: str, meaning: str, remedy: str, *stages: Stage) -> _PhaseEntry:
    return _PhaseEntry(word, meaning, remedy, MeasuredBy.WORKER, stages)


def _operator(word: str, meaning: str, remedy: str, *stages: Stage) -> _PhaseEntry:
    return _PhaseEntry(word, meaning, remedy, MeasuredBy.OPERATOR, stages)


_PREPARE: Final = Stage.PREPARE
_SERVE: Final = Stage.SERVE


class StartPhase(StrEnum):
    """The phases in the order of a start. Each member is its name, so that it compares and serializes as that."""

    _value_: str
    meaning: str
    """What it covers, from the previous boundary to its own."""
    remedy: str
    """What to do when it is long."""
    measured_by: MeasuredBy
    stages: tuple[Stage, ...]
    """The stages in which it occurs."""

    def __new__(cls, entry: _PhaseEntry) -> Self:
        member = str.__new__(cls, entry.word)
        member._value_ = entry.word
        member.meaning = entry.meaning
        member.remedy = entry.remedy
        member.measured_by = entry.measured_by
        member.stages = entry.stages
        return member

    # Until a container runs.
    RECONCILED = _operator(
        "Reconciled",
        "From what caused the start until its first pod is created.",
        "Look at the operator's log and its metrics: is it ready, and does it keep up?",
        _PREPARE,
        _SERVE,
    )
    BLOCKED = _operator(
        "Blocked",
        "Something had to be put right by somebody, until that was noticed. Its `reason` is the one that `Ready` had. "
        "Not in LOAD.",
        "Do what [the reason](reasons.md#time-that-is-not-in-load) says.",
        _PREPARE,
        _SERVE,
    )
    BACKED_OFF = _operator(
        "BackedOff",
        "From an attempt that failed until the pod of the next one is created; also what attempts that are no longer "
        "listed took. Not in LOAD.",
        "Do what the reason of the failure says, and have it tried at once with `neuronmodel.dev/retry`.",
        _PREPARE,
        _SERVE,
    )
    PREVIOUS_STOPPED = _operator(
        "PreviousStopped",
        "The pod of the former spec finishes its answers and goes.",
        "Lower `spec.worker.terminationGracePeriodSeconds`, which bounds it.",
        _SERVE,
    )
    HANDED_OVER = _operator(
        "HandedOver",
        "From the end of `prepare` until the serving pod is created; absent when shorter than Kubernetes' resolution "
        "of a second.",
        "Look at the operator's log and its metrics.",
        _SERVE,
    )
    QUEUED = _operator(
        "Queued",
        "The pod waits for a node.",
        "Look for nodes of the instance type, free devices and quotas; `Scheduled` says what is missing.",
        _PREPARE,
        _SERVE,
    )
    STARTING = _operator(
        "Starting",
        "The node mounts volumes and makes the container.",
        "Look at the pod's Events: volumes that attach or mount slowly.",
        _PREPARE,
        _SERVE,
    )
    IMAGE_PULLED = _operator(
        "ImagePulled",
        "The kubelet pulled the image; absent when the node had it.",
        "Use a smaller image, a registry that is nearer, or pull it to the nodes beforehand.",
        _PREPARE,
        _SERVE,
    )
    BOOTED = _operator(
        "Booted",
        "From the start of the container until the worker's first line: the interpreter starts.",
        "Look at the node: processors that are taken, an image that is read from a slow disk.",
        _PREPARE,
        _SERVE,
    )
    # Of both stages.
    LIBRARIES_IMPORTED = _worker(
        "LibrariesImported",
        "What the stage needs is imported, and its folder on the scratch volume is made.",
        "Look at the node's processors and at the disk that the image is on.",
        _PREPARE,
        _SERVE,
        Stage.CLEANUP,
    )
    SOURCE_OPENED = _worker(
        "SourceOpened",
        "`config.json` and the headers of the checkpoint are read, and the layout is planned.",
        "Look at the latency of the source's volume; fewer and larger files help.",
        _PREPARE,
        _SERVE,
    )
    TOKENIZER_LOADED = _worker(
        "TokenizerLoaded",
        "The tokenizer is read. In `prepare` it is only checked.",
        "Provide `tokenizer.json`; other forms are converted at each start.",
        _PREPARE,
        _SERVE,
    )
    SOURCE_FETCHED = _worker(
        "SourceFetched",
        "With `spec.sharding.weights: Native` and a source on a network: the whole files are fetched to the scratch "
        "volume, where NxD Inference reads them. A start with sealed shards fetches nothing.",
        "Look at the rate of the source's server and of the scratch volume; `ShardOnCompile` fetches once, and a "
        "scratch volume that outlives pods keeps the files.",
        _PREPARE,
        _SERVE,
    )
    # Of prepare.
    SOURCE_IDENTIFIED = _worker(
        "SourceIdentified",
        "The content of the weights is identified: from what is recorded of the files, else they are read.",
        "Don't touch or copy the files of a checkpoint that has not changed.",
        _PREPARE,
    )
    VOLUME_PROBED = _worker(
        "VolumeProbed",
        "What the artifacts volume can read and write is measured, at most once a day.",
        "Look at the volume: the probe is of a fixed size.",
        _PREPARE,
    )
    ARTIFACTS_CHECKED = _worker(
        "ArtifactsChecked",
        "What is on the artifacts volume is looked up and verified, the strategy is chosen, room is made.",
        "With `spec.artifacts.verification: Full` every byte is read; `Quick` reads sizes and headers.",
        _PREPARE,
    )
    OTHER_WRITER_AWAITED = _worker(
        "OtherWriterAwaited",
        "Another worker builds the same set; what it builds is used.",
        "See how far the other one is; the log names it.",
        _PREPARE,
    )
    ENGINE_IMPORTED = _worker(
        "EngineImported",
        "PyTorch and the Neuron SDK are imported.",
        "Look at the node's processors and at the disk that the image is on.",
        _PREPARE,
        _SERVE,
    )
    COMPILED = _worker(
        "Compiled",
        "The Neuron compiler compiles the model; absent when it was compiled before.",
        "Give `spec.prepare.resources` more processors. It is done once for each combination of flags.",
        _PREPARE,
    )
    SHARDED = _worker(
        "Sharded",
        "The checkpoint is cut into the ranks' tensors: into files in `prepare`, into memory in a start.",
        "Compare its bytes a second with what the disk can do, `status.starts[].disk`; in a start, use "
        "`ShardOnCompile` or a scratch volume.",
        _PREPARE,
        _SERVE,
    )
    SEALED = _worker(
        "Sealed",
        "The shards are brought to the disk and get their manifest.",
        "Look at the rate at which the artifacts volume writes.",
        _PREPARE,
    )
    # Of serving.
    DEVICES_FOUND = _worker(
        "DevicesFound",
        "The Neuron devices and their driver are looked up.",
        "Look at the node's kernel log.",
        _SERVE,
    )
    COMPILED_LOADED = _worker(
        "CompiledLoaded",
        "The compiled model is read from the artifacts volume.",
        "Look at the rate at which the artifacts volume reads; with `spec.artifacts.verification: Full` every byte is "
        "read to be checked.",
        _SERVE,
    )
    SERVER_IMPORTED = _worker(
        "ServerImported",
        "vLLM and NxD Inference are imported, vLLM's configuration is made.",
        "Look at the node's processors and at the disk that the image is on.",
        _SERVE,
    )
    GRAPH_LOADED = _worker(
        "GraphLoaded",
        "With vLLM: the compiled graph is read.",
        "Look at the rate at which the artifacts volume reads.",
        _SERVE,
    )
    READ = _worker(
        "Read",
        "Sealed shards are read into memory.",
        "Compare its bytes a second with what the disk can do, `status.starts[].disk`; use a scratch volume on a "
        "local disk, or `ShardOnLoad` where the source is on a faster volume.",
        _SERVE,
    )
    DEVICES_AWAITED = _worker(
        "DevicesAwaited",
        "Another process holds the Neuron devices still, often the pod before; they are tried again and again.",
        "Find out what runs on the node's devices; a pod that ends lets go of them within a minute.",
        _SERVE,
    )
    DEVICE_LOADED = _worker(
        "DeviceLoaded",
        "Graph and weights are brought to the devices (with the CPU engine: the model is put together).",
        "It grows with the bytes of a rank: a higher degree loads less on each core.",
        _SERVE,
    )
    WARMED_UP = _worker(
        "WarmedUp",
        "Each graph runs once, and its numbers are checked.",
        "Fewer or shorter buckets are fewer runs.",
        _SERVE,
    )
    SERVER_STARTED = _worker(
        "ServerStarted",
        "vLLM makes its scheduler, and its API answers.",
        "Read the worker's log, which has vLLM's lines.",
        _SERVE,
    )
    ANNOUNCED = _operator(
        "Announced",
        "From a worker that answers until the kubelet and the operator have seen it.",
        "Look at the operator's log and its metrics.",
        _SERVE,
    )
    UNACCOUNTED = _operator(
        "Unaccounted",
        "What no boundary explains.",
        "Report it with the worker's log.",
        _PREPARE,
        _SERVE,
    )
    # Of clean-up, which is in no start.
    ARTIFACTS_REMOVED = _worker(
        "ArtifactsRemoved",
        "Artifacts that nobody else refers to are removed.",
        "Look at the volume; removing many files takes long on some.",
        Stage.CLEANUP,
    )


GAPS: Final = frozenset(
    {
        StartPhase.RECONCILED,
        StartPhase.HANDED_OVER,
        StartPhase.BACKED_OFF,
        StartPhase.UNACCOUNTED,
        StartPhase.PREVIOUS_STOPPED,
    }
)
"""Phases in which nothing runs: they are named for what was waited for."""
WITHOUT_POD: Final = GAPS | {StartPhase.BLOCKED}
"""Phases that belong to no run of a pod."""
WAITS: Final = (StartPhase.BLOCKED, StartPhase.BACKED_OFF)
"""Phases that do not count as loading time."""
