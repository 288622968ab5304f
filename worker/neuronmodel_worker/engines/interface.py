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

# Called with the steps that are done and all there are.
Steps = Callable[[int, int], None]


Ranks = Sequence[Mapping[str, RankTensor]]
"""Every rank's tensors by name, the first rank first."""


class NoEngine(WorkerFailure):
    reason = Reason.NO_ENGINE
    exit_code = exits.NO_ENGINE


class DevicesInUse(WorkerFailure):
    """Somebody else holds them still, often the pod before: they are waited for."""

    reason = Reason.DEVICES_IN_USE


class SamplingNotCompiled(ValueError):
    """The compiled graph samples in one way, and another one was asked for. A sentence for the client."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """`temperature` 0 takes the likeliest token; `top_k` None considers all tokens; without `seed` each run differs."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int | None = None
    seed: int | None = None


@dataclass(frozen=True, slots=True)
class Limits:
    """In tokens: the longest prompt, prompt and answer together, and the shortest prompt; and how many answers are
    computed side by side."""

    context_length: int
    sequence_length: int
    batch_size: int
    shortest_prompt: int = 1


class LoadedModel(Protocol):
    limits: Limits

    def check_sampling(self, sampling: Sampling) -> None:
        """Raises SamplingNotCompiled."""

    def warm_up(self) -> None:
        """Compute once what the first request would otherwise wait for."""

    def generate(self, prompt: Sequence[int], sampling: Sampling) -> Iterator[int]:
        """Tokens until the sequence is full; the caller stops earlier by closing the iterator. At most
        `limits.batch_size` at a time, each in a thread of its own; one more waits."""


class CompiledModel(Protocol):
    def load(self, ranks: Ranks | None) -> LoadedModel:
        """Hand over every rank's tensors; None: the engine gets them by itself, as with `Weights.NATIVE`.

        Raises ArtifactDamaged when they are not what the graph takes, and DevicesInUse, after which it may be called
        again with the same tensors.
        """


class ModelEngine(Protocol):
    def version(self) -> str:
        """Of everything that decides what `compile` makes, beside its inputs."""

    def graph_inputs(self, plan: ModelPlan, neuron_config: Mapping[str, object]) -> dict[str, object]:
        """All that shapes the graph: no weights and no paths. Raises a BadInput for what this engine cannot do."""

    def import_framework(self) -> None:
        """What `compile` and `open` need; takes seconds, so that it is a phase of its own."""

    def compile(self, plan: ModelPlan, neuron_config: Mapping[str, object], directory: Path, progress: Steps) -> None:
        """Put the compiled model's files into `directory`, which exists and is empty."""

    def shard(self, plan: ModelPlan, neuron_config: Mapping[str, object], directory: Path, progress: Steps) -> None:
        """With `Weights.NATIVE`: let the engine's library write its rank files below `directory`. Raises a BadInput
        where it has no way of its own."""

    def devices(self) -> Devices | None:
        """What there is to compute on, looked up before anything is loaded; None: processors. Raises a WorkerFailure
        for devices that are not there or not those that were asked for."""

    def open(self, directory: Path, shards: Path | None = None) -> CompiledModel:
        """`directory` is a compiled model's, `shards` that of a sealed set where there is one. Raises
        ArtifactDamaged."""
