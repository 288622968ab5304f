"""The interface of an engine: compile, load, generate."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from neuronmodel_api import exits
from neuronmodel_api.reasons import Reason
from neuronmodel_api.report import Devices
from neuronmodel_worker.failures import WorkerFailure
from neuronmodel_worker.plan.streamed import ModelPlan
from neuronmodel_worker.stream import RankTensor

Steps = Callable[[int, int], None]
"""Is called with the number of finished steps and the number of all steps."""


Ranks = Sequence[Mapping[str, RankTensor]]
"""Every rank's tensors by name, the first rank first."""


class NoEngine(WorkerFailure):
    reason = Reason.NO_ENGINE
    exit_code = exits.NO_ENGINE


class DevicesInUse(WorkerFailure):
    """Another process still holds the devices, often the previous pod's: they are waited for."""

    reason = Reason.DEVICES_IN_USE


class SamplingNotCompiled(ValueError):
    """The request asks for another way of sampling than the compiled graph has. The message is a sentence for the
    client."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the next token is chosen. With `temperature` 0 it is the likeliest one; with `top_k` None all tokens are
    considered; without `seed` each run differs."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int | None = None
    seed: int | None = None


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of a model, in tokens: the longest prompt, the longest sequence of prompt and answer, and the shortest
    prompt; and how many answers are computed at the same time."""

    context_length: int
    sequence_length: int
    batch_size: int
    shortest_prompt: int = 1


class LoadedModel(Protocol):
    """A model that is loaded and can answer."""

    limits: Limits

    def check_sampling(self, sampling: Sampling) -> None:
        """Raises SamplingNotCompiled."""

    def warm_up(self) -> None:
        """Do the work once that the first request would have to wait for."""

    def generate(self, prompt: Sequence[int], sampling: Sampling) -> Iterator[int]:
        """The tokens of an answer until the sequence is full; the caller stops earlier by closing the iterator. At most
        `limits.batch_size` callers are served at a time, each in a thread of its own; others wait."""


class CompiledModel(Protocol):
    """A compiled model that is open, without weights."""

    def load(self, ranks: Ranks | None) -> LoadedModel:
        """Load every rank's tensors; with None the engine reads them itself, as with `Weights.NATIVE`.

        Raises ArtifactDamaged when they are not what the graph takes, and DevicesInUse, after which it may be called
        again with the same tensors.
        """


class ModelEngine(Protocol):
    """Compiles and opens models."""

    def version(self) -> str:
        """The version of everything that decides what `compile` makes, in addition to its inputs."""

    def graph_inputs(self, plan: ModelPlan, neuron_config: Mapping[str, object]) -> dict[str, object]:
        """Everything that determines the graph, without weights and paths. Raises a BadInput for what this engine
        cannot do."""

    def import_framework(self) -> None:
        """Import what `compile` and `open` need; this takes seconds, so it is a phase of its own."""

    def compile(self, plan: ModelPlan, neuron_config: Mapping[str, object], directory: Path, progress: Steps) -> None:
        """Write the compiled model's files into `directory`, which exists and is empty."""

    def shard(self, plan: ModelPlan, neuron_config: Mapping[str, object], directory: Path, progress: Steps) -> None:
        """With `Weights.NATIVE`, let the engine's library write its rank files below `directory`. The plan's checkpoint
        is in a folder, and whole. Raises a BadInput where the engine has no sharding of its own."""

    def devices(self) -> Devices | None:
        """The devices to compute on, before anything is loaded; None for processors. Raises a WorkerFailure for devices
        that are missing or not those that were asked for."""

    def open(self, directory: Path, shards: Path | None = None) -> CompiledModel:
        """Open the compiled model in `directory`; `shards` is the directory of a sealed set, if there is one. Raises
        ArtifactDamaged."""
