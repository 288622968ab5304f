"""The entry point in group `vllm.general_plugins`, which vLLM calls in each of its processes, in some of them twice.

It imports only Python's own modules until what loads a model is imported: NxD Inference, or on processors vLLM's own
registry of loaders. If vLLM was not started by our worker, it does nothing.
"""

import os
from pathlib import Path
from types import ModuleType

from neuronmodel_worker.serve.vllm.environment import ENV_ENGINE, ENV_INSTRUCTION

APPLICATIONS = "neuronx_distributed_inference.models.application_base"
LOADERS = "vllm.model_executor.model_loader"
PROCESSORS = "CPU"

_registered = False


def register() -> None:
    """Installs the hooks as soon as NxD Inference is imported, or the loader as soon as vLLM's registry is."""
    global _registered
    if _registered or not os.environ.get(ENV_INSTRUCTION):
        return
    _registered = True
    from neuronmodel_worker.serve.vllm.imports import when_imported

    if os.environ.get(ENV_ENGINE) == PROCESSORS:
        when_imported(LOADERS, _register_loader)
    else:
        when_imported(APPLICATIONS, _install_hooks)


def _install_hooks(module: ModuleType) -> None:
    from neuronmodel_worker.serve.vllm.instruction import read_instruction
    from neuronmodel_worker.serve.vllm.neuron.load_hooks import make_load_hooks

    instruction = read_instruction(Path(os.environ[ENV_INSTRUCTION]))
    make_load_hooks(instruction).install(module.NeuronApplicationBase)


def _register_loader(module: ModuleType) -> None:
    from neuronmodel_worker.serve.vllm.cpu.loader import register_loader

    register_loader(module, Path(os.environ[ENV_INSTRUCTION]))
