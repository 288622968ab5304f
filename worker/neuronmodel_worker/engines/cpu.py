"""The CPU engine: Llama from rank tensors, every rank in this process, in PyTorch.

It stands for the Neuron engine where there is no Neuron device: the same steps, the same files, the same shards. What
it compiles is a TorchScript graph without weights, which a start loads and fills with its rank tensors. PyTorch is
imported only when one of these begins: to find that nothing has to be built needs none of it.
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
from neuronmodel_worker.plan.streamed import ModelPlan, Plan

if TYPE_CHECKING:
    from neuronmodel_worker.engines.llama import CompiledLlama

NO_WAY_OF_ITS_OWN = "The CPU engine does not shard by itself. Remove spec.sharding.weights, or use engine: Neuron."
GRAPH_SOURCES = [Path(__file__).with_name(name) for name in ("llama_graph.py", "rotary.py")]


class CpuEngine:
    """Raises NoEngine where PyTorch is not installed."""

    def __init__(self) -> None:
        if find_spec("torch") is None:
            raise NoEngine("The CPU engine needs PyTorch, and this installation has none. Install the extra `cpu`.")

    def version(self) -> str:
        """The graph's own source is part of it, so that a graph is never older than the code that describes it."""
        source = hashlib.sha256(b"".join(file.read_bytes() for file in GRAPH_SOURCES)).hexdigest()[:12]
        return f"cpu torch-{torch_version().partition('+')[0]} graph-{source}"

    def graph_inputs(self, plan: ModelPlan, neuron_config: Mapping[str, object]) -> dict[str, object]:
        return llama_shape(_own(plan), neuron_config).inputs()

    def import_framework(self) -> None:
        importlib.import_module("neuronmodel_worker.engines.llama")

    def compile(self, plan: ModelPlan, neuron_config: Mapping[str, object], directory: Path, progress: Steps) -> None:
        from neuronmodel_worker.engines.llama import compile_llama

        compile_llama(llama_shape(_own(plan), neuron_config), self.version(), directory, progress)

    def shard(self, plan: ModelPlan, neuron_config: Mapping[str, object], directory: Path, progress: Steps) -> None:
        raise LayoutRefused(NO_WAY_OF_ITS_OWN)

    def devices(self) -> None:
        """It computes on processors."""

    def open(self, directory: Path, shards: Path | None = None) -> "CompiledLlama":
        from neuronmodel_worker.engines.llama import open_llama

        return open_llama(directory)


def _own(plan: ModelPlan) -> Plan:
    if not isinstance(plan, Plan):
        raise LayoutRefused(NO_WAY_OF_ITS_OWN)
    return plan


def torch_version() -> str:
    """From the package's metadata, else, where a distribution left that out, from the package."""
    try:
        return version("torch")
    except PackageNotFoundError:
        import torch

        return str(torch.__version__)
