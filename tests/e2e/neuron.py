"""NeuronModels of engine Neuron, on an image that holds stand-ins for the Neuron SDK, and a node of sixteen devices."""

import json
import subprocess
import sys
from functools import cache
from typing import Any

from hack.cluster.layout import LAYOUT, PROJECT
from neuronmodel_api import names

from .cluster import Object
from .neuronmodels import Applied, merged, neuron_model

DEGREE = 3
SDK = {"neuronx-cc", "torch-neuronx", "neuronx-distributed", "neuronx-distributed-inference", "libneuronxla"}
RECORD = f"{names.SCRATCH_MOUNT}/stand-ins.jsonl"
# As many logical cores as the runtime was configured to take; the Job has no devices, and its runtime no configuration.
DEVICES = {"NEURON_STANDIN_CORES": "$(NEURON_RT_NUM_CORES)"}
STAND_INS = {"NEURON_STANDIN_STATE": f"{names.SCRATCH_MOUNT}/stand-ins", "NEURON_STANDIN_LOG": RECORD}
KERNELS = {"fusedQKV": True, "qkvKernel": True, "attentionKernel": True, "mlpKernel": True, "sequenceParallel": True}
# They import PyTorch and transformers, and compile: with the shares of a tiny model they would wait for all others.
RESOURCES = {"requests": {"cpu": "100m", "memory": "128Mi"}}
GREEDY = {"topK": 1, "topP": "1.0", "temperature": "1.0"}


@cache
def image() -> str:
    """Of the worker with the Neuron engine, built where the registry lacks it."""
    subprocess.run([sys.executable, "-m", "hack.cluster", "images", "worker-neuron"], cwd=PROJECT, check=True)
    reference: str = json.loads(LAYOUT.images.read_text())["worker-neuron"]
    return reference


def on_neuron(
    name: str, path: str, *, strategy: str = "ShardOnCompile", fail: str = "", devices: bool = True, **spec: Any
) -> Object:
    """`fail`: what goes wrong, as the stand-ins take it; `devices` False: the pod sees none."""
    variables = STAND_INS | (DEVICES if devices else {}) | ({"NEURON_STANDIN_FAIL": fail} if fail else {})
    made = neuron_model(
        name,
        path,
        degree=DEGREE,
        strategy=strategy,
        engine="Neuron",
        compile=KERNELS | {"onDeviceSampling": GREEDY, "padTokenID": 2},
        worker={
            "image": image(),
            "resources": RESOURCES,
            "env": [{"name": key, "value": value} for key, value in variables.items()],
        },
    )
    return {**made, "spec": merged(made["spec"], {"prepare": {"resources": RESOURCES}, **spec})}


def recorded(model: Applied, event: str) -> list[Object]:
    """What the library was called with in the pod that serves."""
    printed = model.cluster.execute(model.namespace, model.serving_pod()["metadata"]["name"], f"cat {RECORD}")
    calls = [json.loads(line) for line in printed.splitlines()]
    return [call for call in calls if call["event"] == event]
