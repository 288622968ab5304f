"""What the demo applies: a namespace with the restricted standard, a claim with the model, two NeuronModels."""

from typing import Any

Manifest = dict[str, Any]

NAMESPACE = "neuronmodel-demo"
MODEL = "SmolLM2-135M-Instruct"
TENSOR_PARALLEL_DEGREE = 3


def namespace() -> Manifest:
    return {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {"name": NAMESPACE, "labels": {"pod-security.kubernetes.io/enforce": "restricted"}},
    }


def models_claim() -> Manifest:
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": "models", "namespace": NAMESPACE},
        "spec": {
            "storageClassName": "models",
            "accessModes": ["ReadOnlyMany"],
            "resources": {"requests": {"storage": "1Gi"}},
        },
    }


def neuron_model(name: str, strategy: str) -> Manifest:
    return {
        "apiVersion": "neuronmodel.dev/v1alpha1",
        "kind": "NeuronModel",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {
            "engine": "CPU",
            "model": {"source": {"persistentVolumeClaim": {"claimName": "models", "path": MODEL}}},
            "parallelism": {"tensorParallelDegree": TENSOR_PARALLEL_DEGREE},
            "compile": {"torchDtype": "bfloat16", "maxContextLength": 256, "sequenceLength": 512},
            "sharding": {"strategy": strategy},
            "artifacts": {"template": {"size": "2Gi"}, "retention": "Delete"},
            "worker": {"resources": {"requests": {"cpu": "250m", "memory": "1Gi"}, "limits": {"memory": "3Gi"}}},
        },
    }
