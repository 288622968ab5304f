"""Engines compute models behind one small interface: compile, load, generate.

Importing this package imports no engine: each one imports its own framework, which takes seconds.
"""

import os

import neuronmodel_api.config as api
from neuronmodel_worker.engines.interface import (
    CompiledModel,
    DevicesInUse,
    Limits,
    LoadedModel,
    ModelEngine,
    NoEngine,
    Ranks,
    Sampling,
    SamplingNotCompiled,
    Steps,
)


def open_engine(config: api.WorkerConfig) -> ModelEngine:
    """The engine of a configuration. Raises NoEngine, also where only placeholders of the Neuron SDK are installed."""
    if config.engine is api.Engine.NEURON:
        from neuronmodel_worker.engines.neuron import NeuronEngine

        return NeuronEngine(config)
    # Threads that spin while they wait starve each other where processors are shared: 0.9 instead of 10 tokens a second
    # of a 135M model on two busy ones. OpenMP reads this when PyTorch loads it.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    if config.server is api.Server.VLLM:
        from neuronmodel_worker.engines.cpu_vllm import CpuVllmEngine

        return CpuVllmEngine(config.extra_args)
    from neuronmodel_worker.engines.cpu import CpuEngine

    return CpuEngine()


__all__ = [
    "CompiledModel",
    "DevicesInUse",
    "Limits",
    "LoadedModel",
    "ModelEngine",
    "NoEngine",
    "Ranks",
    "Sampling",
    "SamplingNotCompiled",
    "Steps",
    "open_engine",
]
