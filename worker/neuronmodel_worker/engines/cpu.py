"""The CPU engine: Llama from rank tensors, every rank in this process, in PyTorch.

It replaces the Neuron engine where there is no Neuron device, with the same steps, the same files and the same shards.
It compiles a TorchScript graph without weights, which a start loads and fills with its rank tensors. PyTorch is
imported only when a model is compiled or loaded: finding out that nothing has to be built does not need it.
"""

import hashlib
import importlib
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from neuronmodel_worker.engines.interface import NoEngine, Steps
from neuronmodel_worker.engines.llama_shape import llama_shape
from neuronmodel_worker.failures import LayoutRefused
from neuronmodel_worker.plan.streamed import ModelPlan, StreamedPlan

if TYPE_CHECKING:
    from neuronmodel_worker.engines.llama import CompiledLlama

NO_NATIVE_SHARDING = "The CPU engine does not shard by itself. Remove spec.sharding.weights, or use engine: Neuron."
GRAPH_SOURCES = [Path(__file__).with_name(name) for name in ("llama_graph.py", "rotary.py")]


class CpuEngine:
    """Raises NoEngine where PyTorch is not installed."""

    def __init__(self) -> None:
        if find_spec("torch") is None:
            raise NoEngine("The CPU engine needs PyTorch, and this installation has none. Install the extra `cpu`.")

    def version(self) -> str:
        """The graph's source code is part of the version, so that a change of the code makes a new graph."""
        source = hashlib.sha256(b"".join(file.read_bytes() for file in GRAPH_SOURCES)).hexdigest()[:12]
        return f"cpu torch-{torch_version().partition('+')[0]} graph-{source}"

    def graph_inputs(self, plan: ModelPlan, neuron_config: Mapping[str, object]) -> dict[str, object]:
        return llama_shape(streamed(plan), neuron_config).inputs()

    def import_framework(self) -> None:
        importlib.import_module("neuronmodel_worker.engines.llama")

    def compile(self, plan: ModelPlan, neuron_config: Mapping[str, object], directory: Path, progress: Steps) -> None:
        from neuronmodel_worker.engines.llama import compile_llama

        compile_llama(llama_shape(streamed(plan), neuron_config), self.version(), directory, progress)

    def shard(self, plan: ModelPlan, neuron_config: Mapping[str, object], directory: Path, progress: Steps) -> None:
        raise LayoutRefused(NO_NATIVE_SHARDING)

    def devices(self) -> None:
        """None: this engine computes on processors."""

    def open(self, directory: Path, shards: Path | None = None) -> "CompiledLlama":
        from neuronmodel_worker.engines.llama import open_llama

        return open_llama(directory)


def streamed(plan: ModelPlan) -> StreamedPlan:
    """Our own plan. Raises LayoutRefused for NxD Inference's."""
    if not isinstance(plan, StreamedPlan):
        raise LayoutRefused(NO_NATIVE_SHARDING)
    return plan


def torch_version() -> str:
    """The version in the package's metadata, or in the package where a distribution has left out the metadata."""
    try:
        return version("torch")
    except PackageNotFoundError:
        import torch

        return str(torch.__version__)
