"""Llama on the CPU: saving the graph, filling it with rank tensors, and answering."""

import json
import queue
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from pydantic import TypeAdapter

from neuronmodel_worker.engines.interface import Limits, Ranks, Sampling, Steps
from neuronmodel_worker.engines.llama_graph import build_graph, empty_cache
from neuronmodel_worker.engines.llama_shape import EngineRefused, LlamaShape
from neuronmodel_worker.engines.logit_checks import check_finite
from neuronmodel_worker.engines.rank_tensors import TorchRanks, as_torch, check_ranks
from neuronmodel_worker.engines.sampling import Sampler
from neuronmodel_worker.failures import ArtifactDamaged
from neuronmodel_worker.io.cgroups import usable_processors

GRAPH_FILE = "model.pt"
DESCRIPTION_FILE = "graph.json"

torch.set_num_threads(usable_processors())


def compile_llama(shape: LlamaShape, version: str, directory: Path, progress: Steps) -> None:
    progress(0, 2)
    graph = build_graph(shape)
    progress(1, 2)
    (directory / GRAPH_FILE).write_bytes(graph.save_to_buffer())  # PyTorch's own error would hide the OSError
    description = {"engine": version, "shape": shape.inputs()}
    (directory / DESCRIPTION_FILE).write_text(json.dumps(description, indent=1))
    progress(2, 2)


def open_llama(directory: Path) -> "CompiledLlama":
    """Open a compiled model. Raises ArtifactDamaged."""
    try:
        description = json.loads((directory / DESCRIPTION_FILE).read_bytes())
        shape = TypeAdapter(LlamaShape).validate_python(description["shape"])
        graph = torch.jit.load(str(directory / GRAPH_FILE))  # type: ignore[no-untyped-call]
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise ArtifactDamaged(directory, f"its graph cannot be loaded ({last_line(error)})") from error
    return CompiledLlama(graph, shape, directory)


class CompiledLlama:
    def __init__(self, graph: torch.jit.ScriptModule, shape: LlamaShape, directory: Path) -> None:
        self._graph = graph
        self._shape = shape
        self._directory = directory

    def load(self, ranks: Ranks | None) -> "LoadedLlama":
        if ranks is None:
            raise ArtifactDamaged(self._directory, "its graph takes ranks, and none came")
        check_ranks(ranks, range(self._shape.degree), self._shape.rank_tensors, self._directory)
        weights = [{name: as_torch(tensor) for name, tensor in rank.items()} for rank in ranks]
        if self._shape.skip_gamma_mlp:
            refuse_zero_norms(weights)
        with torch.inference_mode():
            self._graph.initialize(weights, empty_cache(self._shape), empty_cache(self._shape))
        shape = self._shape
        return LoadedLlama(self._graph, Limits(shape.context_length, shape.sequence_length, shape.batch_size))


class LoadedLlama:
    """A model that answers. Each answer has a slot of the key/value cache; the graph computes one step of one answer at
    a time."""

    def __init__(self, graph: torch.jit.ScriptModule, limits: Limits) -> None:
        self.limits = limits
        self._graph = graph
        self._turn = threading.Lock()
        self._slots: queue.SimpleQueue[int] = queue.SimpleQueue()
        for slot in range(limits.batch_size):
            self._slots.put(slot)

    def check_sampling(self, sampling: Sampling) -> None:
        """Everything is supported: sampling is done outside the graph."""

    def warm_up(self) -> None:
        """Compute a prompt and two tokens, so that every kernel has run. Raises LogitsNotFinite."""
        tokens, start, slot = [0] * min(8, self.limits.context_length), 0, self._slots.get()
        try:
            for _ in range(2):
                if start + len(tokens) > self.limits.sequence_length:
                    break
                logits = self.logits(tokens, start, slot)
                check_finite(logits)
                start, tokens = start + len(tokens), [int(logits[-1].argmax())]
        finally:
            self._slots.put(slot)

    def generate(self, prompt: Sequence[int], sampling: Sampling) -> Iterator[int]:
        slot = self._slots.get()
        try:
            yield from self._generate(prompt, Sampler(sampling), slot)
        finally:
            self._slots.put(slot)

    def _generate(self, prompt: Sequence[int], sampler: Sampler, slot: int) -> Iterator[int]:
        tokens, start = list(prompt), 0
        while start + len(tokens) <= self.limits.sequence_length:
            token = sampler.choose(self.logits(tokens, start, slot)[-1])
            start += len(tokens)
            tokens = [token]
            yield token

    def logits(self, tokens: Sequence[int], start: int = 0, slot: int = 0, *, last_only: bool = True) -> torch.Tensor:
        """The logits [1 or T, V] in float32."""
        with self._turn, torch.inference_mode(), torch.jit.optimized_execution(False):  # type: ignore[attr-defined]
            result: torch.Tensor = self._graph(torch.tensor(tokens), start, slot, last_only)
        return result


def refuse_zero_norms(weights: TorchRanks) -> None:
    """Raises EngineRefused: with fused_rmsnorm_skip_gamma a zero in this norm has cleared a column of gate and up,
    which cannot be undone."""
    for name, tensor in weights[0].items():
        if name.endswith("input_layernorm.weight") and bool((tensor == 0).any()):
            raise EngineRefused(
                f"{name} has elements that are zero, and with fused_rmsnorm_skip_gamma and mlp_kernel_enabled they are "
                "multiplied into the MLP's weights. Set one of these flags to false."
            )


def last_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
