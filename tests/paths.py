"""Where things lie in the checkout that is tested."""

from pathlib import Path
from typing import Final

PROJECT: Final = Path(__file__).resolve().parents[1]
API: Final = PROJECT / "api" / "neuronmodel_api"
OPERATOR: Final = PROJECT / "operator" / "neuronmodel_operator"
WORKER: Final = PROJECT / "worker" / "neuronmodel_worker"
KUBECTL_PLUGIN: Final = PROJECT / "kubectl" / "neuronmodel_kubectl"
GOLDEN: Final = PROJECT / "tests" / "golden"
NEURON_STAND_INS: Final = PROJECT / "tests" / "standins" / "neuron"
VLLM_STAND_INS: Final = PROJECT / "tests" / "standins" / "vllm"
TOKENIZERS: Final = PROJECT / "tests" / "unit" / "worker" / "text" / "tokenizers"
MANIFESTS: Final = PROJECT / "tests" / "unit" / "operator" / "golden"
