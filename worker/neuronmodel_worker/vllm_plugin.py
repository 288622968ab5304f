"""The entry point in group `vllm.general_plugins`, which vLLM calls in each of its processes, in some of them twice.

It imports only Python's own modules until NxD Inference is imported in the process that loads a model. If vLLM was not
started by our worker, it does nothing.
"""

import os
from pathlib import Path
from types import ModuleType

from neuronmodel_worker.serve.vllm.environment import ENV_INSTRUCTION

APPLICATIONS = "neuronx_distributed_inference.models.application_base"

_registered = False


def register() -> None:
    """Installs the hooks as soon as NxD Inference is imported."""
    global _registered
    if _registered or not os.environ.get(ENV_INSTRUCTION):
        return
    _registered = True
    from neuronmodel_worker.serve.vllm.imports import when_imported

    when_imported(APPLICATIONS, _install_hooks)


def _install_hooks(module: ModuleType) -> None:
    from neuronmodel_worker.serve.vllm.instruction import read_instruction
    from neuronmodel_worker.serve.vllm.load_hooks import make_load_hooks

    instruction = read_instruction(Path(os.environ[ENV_INSTRUCTION]))
    make_load_hooks(instruction).install(module.NeuronApplicationBase)
