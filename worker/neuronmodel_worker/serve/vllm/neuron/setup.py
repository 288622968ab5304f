"""A start of vLLM on NxD Inference: the view of the compiled model, and what the runtime's words mean."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from neuronmodel_api.phases import StartPhase
from neuronmodel_worker.engines.neuron import NeuronEngine
from neuronmodel_worker.engines.nxdi.compiled import read_compiled
from neuronmodel_worker.engines.nxdi.load_directory import checkpoint_of, make_load_directory
from neuronmodel_worker.engines.nxdi.neuron_failures import NeuronRuntimeFailed, classify
from neuronmodel_worker.engines.nxdi.settings import Purpose
from neuronmodel_worker.failures import WorkerFailure
from neuronmodel_worker.run.context import Run
from neuronmodel_worker.run.fetched_folder import FetchedFolder, start_needs_folder
from neuronmodel_worker.serve.devices import find_devices
from neuronmodel_worker.serve.prepared import PreparedModel
from neuronmodel_worker.serve.vllm.neuron.arguments import vllm_arguments
from neuronmodel_worker.serve.vllm.setup import Launch, check_type

ANY_PORT: Final = 0


class NeuronSetup:
    not_hooked = "Check that its Neuron plugin is one of 0.2 to 0.5, which load by NxD Inference."

    def __init__(self, job: Run) -> None:
        self._job = job

    def check(self, folder: Path) -> None:
        vllm_arguments(self._job.config, folder, ANY_PORT)

    def launch(self, prepared: PreparedModel, folder: Path, port: int) -> Launch:
        job = self._job
        engine = NeuronEngine(job.folder_config)
        with job.clock.phase(StartPhase.SOURCE_OPENED):
            checkpoint = prepared.open().checkpoint
            check_type(checkpoint.config, job.config.model_type)
        find_devices(job, engine)
        if start_needs_folder(job):
            folder = FetchedFolder(job, checkpoint).fetch()
        with job.clock.phase(StartPhase.COMPILED_LOADED):
            sets = prepared.find(engine)
            view = make_load_directory(
                Path(job.config.scratch_path),
                read_compiled(sets.compiled.directory),
                folder,
                Purpose.READ if sets.shards else Purpose.LOAD,
                sets.shards_directory,
                job.config.neuron_config,
            )
        arguments = vllm_arguments(job.config, checkpoint_of(view, folder), port)
        return Launch(arguments, plugin_environment({**engine.runtime_environment(), **os.environ}, view))

    def failure(self, output: str, *, raised: bool) -> WorkerFailure | None:
        """What the library raised is the runtime's failure even if it is known by no other name."""
        failure = classify(output)
        return None if isinstance(failure, NeuronRuntimeFailed) and not raised else failure


def plugin_environment(inherited: Mapping[str, str], view: Path) -> dict[str, str]:
    """Adds what the Neuron plugin reads. `view` is the folder with the compiled model."""
    framework = {"VLLM_NEURON_FRAMEWORK": "neuronx-distributed-inference"}  # which the spec's environment may override
    return {**framework, **inherited, "NEURON_COMPILED_ARTIFACTS": str(view)}
