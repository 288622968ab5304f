"""A start of vLLM on processors: its arguments, its environment, and what its words mean."""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from neuronmodel_api.phases import StartPhase
from neuronmodel_api.reasons import Reason
from neuronmodel_worker.engines import open_engine
from neuronmodel_worker.engines.cpu import streamed
from neuronmodel_worker.engines.nxdi.neuron_failures import last_lines
from neuronmodel_worker.engines.vllm_arguments import check_extra_arguments
from neuronmodel_worker.failures import BadInput, WorkerFailure
from neuronmodel_worker.io.cgroups import usable_processors
from neuronmodel_worker.run.context import Run
from neuronmodel_worker.serve.prepared import PreparedModel
from neuronmodel_worker.serve.vllm.cpu.arguments import cpu_arguments
from neuronmodel_worker.serve.vllm.setup import Launch, check_type

TOO_LITTLE_MEMORY: Final = re.compile(
    r"Available memory on node \S+ .*is less than|larger than the available KV cache memory|"
    r"No available memory for the cache blocks|DefaultCPUAllocator: (?:can't|not enough)|\bMemoryError\b"
)


class CacheMemoryExhausted(BadInput):
    """The memory of the node or of the pod has no room for vLLM's keys and values."""

    reason = Reason.HOST_MEMORY_EXHAUSTED


class CpuSetup:
    not_hooked = "Check that spec.serving.extraArgs and spec.worker.env choose no other way to load."

    def __init__(self, job: Run) -> None:
        self._job = job

    def check(self, folder: Path) -> None:
        check_extra_arguments(self._job.config.extra_args)

    def launch(self, prepared: PreparedModel, folder: Path, port: int) -> Launch:
        job = self._job
        engine = open_engine(job.folder_config)
        with job.clock.phase(StartPhase.SOURCE_OPENED):
            source = prepared.open()
            check_type(source.checkpoint.config, job.config.model_type)
            plan = source.plan
            engine.graph_inputs(plan, job.config.neuron_config)
        with job.clock.phase(StartPhase.COMPILED_LOADED):
            prepared.find(engine)
        arguments = cpu_arguments(job.config, streamed(plan), folder, port)
        return Launch(arguments, {**defaults(job.config.neuron_config), **os.environ})

    def failure(self, output: str, *, raised: bool) -> WorkerFailure | None:
        if TOO_LITTLE_MEMORY.search(output):
            return CacheMemoryExhausted(
                "vLLM found too little memory for its keys and values. Ask for more memory, or lower "
                f"spec.compile.batchSize or sequenceLength. Its last lines: {last_lines(output)}"
            )
        return None


def defaults(flags: Mapping[str, Any]) -> dict[str, str]:
    """Returns variables that the spec's environment may override."""
    return {
        # vLLM would bind each rank to a NUMA node of its own, which few pods have, whatever a pod may use.
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "OMP_NUM_THREADS": str(max(1, usable_processors() // int(flags.get("tp_degree", 1)))),
        # Threads that spin while they wait starve each other where processors are shared.
        "OMP_WAIT_POLICY": "passive",
        # A start compiles nothing, which takes minutes and a C++ compiler; `--enforce-eager` leaves some to compile.
        "TORCHDYNAMO_DISABLE": "1",
        # The source is a folder: nothing is looked up elsewhere.
        "HF_HUB_OFFLINE": "1",
    }
