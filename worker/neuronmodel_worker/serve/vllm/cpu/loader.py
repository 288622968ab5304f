"""Our loader in vLLM's processes, registered under a load format: it fills vLLM's parameters with rank tensors.

Each process of a tensor parallel group loads its own rank, from sealed shards or from the checkpoint. The first one
reports the phases; every one reports its failures.
"""

from pathlib import Path
from types import ModuleType
from typing import Any

from neuronmodel_api.phases import StartPhase
from neuronmodel_worker.engines import open_engine
from neuronmodel_worker.engines.cpu import streamed
from neuronmodel_worker.engines.rank_tensors import as_torch
from neuronmodel_worker.run.context import Run
from neuronmodel_worker.serve.background import Background
from neuronmodel_worker.serve.loading import open_tier
from neuronmodel_worker.serve.prepared import PreparedModel
from neuronmodel_worker.serve.vllm.cpu.arguments import LOAD_FORMAT
from neuronmodel_worker.serve.vllm.cpu.parameters import Group, ParameterFiller
from neuronmodel_worker.serve.vllm.instruction import Instruction, read_instruction
from neuronmodel_worker.serve.vllm.relay import QuietWriter, RelayClock, RelayWriter, reporting_failures


def register_loader(registry: ModuleType, instruction: Path) -> None:
    """Registers the loader in vLLM's registry of loaders. The instruction is read when a model is loaded."""
    base: Any = registry.BaseModelLoader

    class NeuronModelLoader(base):  # type: ignore[misc]
        def download_model(self, model_config: Any) -> None:
            """Nothing: the worker has opened everything."""

        def load_weights(self, model: Any, model_config: Any) -> None:
            from vllm.distributed import (
                get_tensor_model_parallel_rank,
                get_tensor_model_parallel_world_size,
                tensor_model_parallel_all_gather,
            )

            group = Group(
                get_tensor_model_parallel_rank(),
                get_tensor_model_parallel_world_size(),
                tensor_model_parallel_all_gather,
            )
            load_rank(read_instruction(instruction), group, model)

    registry.register_model_loader(LOAD_FORMAT)(NeuronModelLoader)


def load_rank(instruction: Instruction, group: Group, model: Any) -> None:
    """Loads the rank's tensors into the model's parameters. Raises LoadHookFailed."""
    writer = (RelayWriter if group.rank == 0 else QuietWriter)(instruction.relay)
    clock, background = RelayClock(writer), Background()
    with reporting_failures(writer):
        job = Run(instruction.config, clock)
        prepared = PreparedModel(job, background, open_tier(job), only=(group.rank,))
        plan = streamed(prepared.open().plan)
        sets = prepared.find(open_engine(job.folder_config))
        ranks = prepared.ranks(sets)
        assert ranks is not None, "the CPU engine has no shards of its own"
        prepared.probe_scratch_later()
        with clock.phase(StartPhase.DEVICE_LOADED, unit="Steps") as phase:
            tensors = {name: as_torch(tensor) for name, tensor in ranks[group.rank].items()}
            ParameterFiller(plan.layout, tensors, group).fill(dict(model.named_parameters()), phase.reach)
    clock.begin(StartPhase.SERVER_STARTED)
    background.begin(lambda: False)
