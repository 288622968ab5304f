"""Names that are part of the contract: labels, annotations, the finalizer, ports, paths and the names of children."""

from typing import Final

GROUP: Final = "neuronmodel.dev"
VERSION: Final = "v1alpha1"
API_VERSION: Final = f"{GROUP}/{VERSION}"
KIND: Final = "NeuronModel"
PLURAL: Final = "neuronmodels"

FIELD_MANAGER: Final = "neuronmodel-operator"
FINALIZER: Final = f"{GROUP}/cleanup"

# Labels of every child; the first three of pods too.
LABEL_MODEL: Final = f"{GROUP}/model"
"""The NeuronModel's name."""
LABEL_UID: Final = f"{GROUP}/uid"
"""The NeuronModel's UID; absent from a templated claim, which outlives it."""
LABEL_COMPONENT: Final = f"{GROUP}/component"
"""One of COMPONENT_*."""
LABEL_MANAGED_BY: Final = "app.kubernetes.io/managed-by"
MANAGED_BY: Final = "neuronmodel-operator"

COMPONENT_PREPARE: Final = "prepare"
COMPONENT_SERVE: Final = "serve"
COMPONENT_CLEANUP: Final = "cleanup"

RESERVED_LABEL_PREFIXES: Final = (f"{GROUP}/", "app.kubernetes.io/")

# Annotations a user sets on a NeuronModel.
ANNOTATION_RETRY: Final = f"{GROUP}/retry"
"""A new value makes a failed prepare be retried at once."""
ANNOTATION_RESTART: Final = f"{GROUP}/restart"
"""A new value rolls the worker, which then also takes up a new default image."""

# Annotations the operator sets on what it makes.
ANNOTATION_INPUTS_HASH: Final = f"{GROUP}/inputs-hash"
"""On a Job and its pod: the hash of what the Job was made from, which reports carry."""
ANNOTATION_TEMPLATE_HASH: Final = f"{GROUP}/template-hash"
"""On a Deployment and its pods: the hash of the pod template, which reports carry."""
ANNOTATION_CHANGE: Final = f"{GROUP}/change"
"""On a Job and a Deployment: JSON {"cause", "observedAt"} of the change that caused it."""
ANNOTATION_ATTEMPT: Final = f"{GROUP}/attempt"
"""On a Job: which attempt at its inputs it is, from 1."""
ANNOTATION_RETRIED: Final = f"{GROUP}/retried"
"""On a Job: the value of ANNOTATION_RETRY that caused it."""
ANNOTATION_IMAGE_DEFAULTED: Final = f"{GROUP}/image-defaulted"
"""On a Deployment: "true" when its image came from the operator's configuration and not from the spec."""

# Variables of a worker's environment.
ENV_CONFIG: Final = "NEURONMODEL_CONFIG"
"""JSON of a `WorkerConfig`."""
ENV_POD_UID: Final = "NEURONMODEL_POD_UID"
ENV_POD_NAME: Final = "NEURONMODEL_POD_NAME"
ENV_NODE_NAME: Final = "NEURONMODEL_NODE_NAME"
RESERVED_ENV_PREFIXES: Final = ("NEURONMODEL_",)
"""Prefixes of variables that a user may not set; RESERVED_ENV lists more."""
RESERVED_ENV: Final = (
    "NEURON_RT_NUM_CORES",
    "NEURON_RT_VIRTUAL_CORE_SIZE",
    "NEURON_RT_VISIBLE_CORES",
    "NEURON_LOGICAL_NC_CONFIG",
    "NXD_LAYOUT_TRANSFORMATION_OPTIONS",
    "HOME",
    "TMPDIR",
    "HF_HUB_OFFLINE",
)

# Inside the operator's pod.
ENV_HEALTH_PORT: Final = "NEURONMODEL_HEALTH_PORT"
HEALTH_PORT: Final = 8080
"""/healthz, /readyz and /metrics of the operator, where the variable is not set."""

# Inside a worker's pod.
CONTAINER: Final = "worker"
SERVING_PORT: Final = 8000
"""Of the API, where the spec names none."""
ADMIN_PORT: Final = 9808
"""/healthz, /readyz, /status, /metrics; no Service exposes it."""
ADMIN_PORT_NAME: Final = "admin"
SERVING_PORT_NAME: Final = "http"
SOURCE_MOUNT: Final = "/source"
ARTIFACTS_MOUNT: Final = "/artifacts"
SCRATCH_MOUNT: Final = "/scratch"
SECRETS_MOUNT: Final = "/run/secrets/neuronmodel"
API_KEY_FILE: Final = f"{SECRETS_MOUNT}/api-key"
SOURCE_CA_FILE: Final = f"{SECRETS_MOUNT}/source-ca.pem"
SHARED_MEMORY_MOUNT: Final = "/dev/shm"  # noqa: S108
TERMINATION_LOG: Final = "/dev/termination-log"
USER_ID: Final = 65532

NEURON_RESOURCE: Final = "aws.amazon.com/neuron"
NEURON_TAINT: Final = "aws.amazon.com/neuron"
INSTANCE_TYPE_LABEL: Final = "node.kubernetes.io/instance-type"
DEFAULT_INSTANCE_TYPE: Final = "trn2.48xlarge"

# A NeuronModel's name has at most 40 characters, so that every name below stays a legal Service or Job name (63).
MAX_MODEL_NAME: Final = 40


def deployment(model: str) -> str:
    return model


def service(model: str) -> str:
    return model


def templated_claim(model: str) -> str:
    return f"{model}-artifacts"


def prepare_job(model: str, inputs_hash: str, attempt: int) -> str:
    """Returns the name of an attempt's Job; each attempt has its own, so that a failed Job can be inspected until the
    next one exists."""
    return f"{model}-prepare-{inputs_hash[:8]}-{attempt}"


def cleanup_job(model: str, uid: str) -> str:
    """Returns the name of the clean-up Job. It outlives its NeuronModel for a moment, so a new one of the same name
    needs another."""
    return f"{model}-cleanup-{uid[:8]}"


def is_workload_of(model: str, name: str) -> bool:
    """Whether a Job or a ReplicaSet of this name is the model's, by the names above and that of its Deployment. Where
    one model's name begins another's, labels have to tell them apart."""
    return name.startswith(f"{model}-")


def owner(namespace: str, name: str, uid: str) -> str:
    """Returns the name of a NeuronModel's reference file in an artifact store."""
    return f"{namespace}.{name}.{uid}"
