"""The configuration that the operator passes to a worker: one JSON document in the environment variable
`names.ENV_CONFIG`."""

import re
from enum import StrEnum
from typing import Any, Final

from pydantic import AwareDatetime, Field

from neuronmodel_api import names
from neuronmodel_api.machines import DEFAULT_MACHINE
from neuronmodel_api.model import Tolerant

PUBLIC_HUB: Final = "https://huggingface.co"


class Engine(StrEnum):
    NEURON = "Neuron"
    CPU = "CPU"


class Strategy(StrEnum):
    SHARD_ON_COMPILE = "ShardOnCompile"
    SHARD_ON_LOAD = "ShardOnLoad"
    AUTO = "Auto"
    """`prepare` chooses one of the others; nothing serves by this one."""


class Seal(StrEnum):
    BEFORE = "Before"
    """`prepare` writes the shards; the start reads them."""
    BEHIND = "Behind"
    """The start shards the checkpoint as it loads, and writes the shards when the model answers."""


class Weights(StrEnum):
    STREAMED = "Streamed"
    """The worker's own readers lay them out and pass them to the engine."""
    NATIVE = "Native"
    """NxD Inference's own code loads them, in a separate process."""


class Server(StrEnum):
    OPENAI = "OpenAI"
    """The worker answers itself."""
    VLLM = "VLLM"
    """The worker prepares the start, runs vLLM, and passes requests on to it."""


class Verification(StrEnum):
    QUICK = "Quick"
    """Checks manifest, sizes and headers."""
    FULL = "Full"
    """Checks every byte as well."""


class History(Tolerant):
    """What `Auto` learns from: the starts recorded in `status.starts`, and what was chosen before."""

    former_strategy: Strategy | None = None
    """The strategy in force at that time; None if there was none."""
    starts: int = 0
    """Starts that became ready, and the one that is prepared for; 0 if none became ready yet."""
    sources: int = 0
    """Distinct contents of the source that they loaded; at least 1 if there was a start."""
    read_bytes_per_second: int | None = None
    """The rate of the latest start that read sealed shards from the artifacts volume."""
    sharded_bytes_per_second: int | None = None
    """The rate of the latest start that sharded the checkpoint while loading, in bytes of the checkpoint."""


DEFAULT_REVISION: Final = "main"
COMMIT: Final = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
"""A revision that never moves."""


class HubSource(Tolerant):
    """A repository of the Hugging Face Hub, or of another server that speaks its API."""

    repository: str
    revision: str = DEFAULT_REVISION
    commit: str | None = None
    """The commit that prepare resolved the revision to; for prepare, that of an earlier attempt, None at the first."""
    resolved_at: AwareDatetime | None = None
    """When it was resolved, where `commit` is of an earlier attempt."""
    endpoint: str = PUBLIC_HUB
    token_file: str | None = None
    """Read at each use; a missing file is no token."""
    ca_file: str | None = None
    """PEM certificates, trusted in addition to the system's; a missing file adds none."""
    check_seconds: int | None = None
    """Serve only: how often a worker that answers asks whether the revision has moved; None for never."""


DEFAULT_S3_REGION: Final = "us-east-1"
PUBLIC_S3: Final = "https://s3.amazonaws.com"
"""Stands for AWS's own endpoints, of every region."""


class S3Source(Tolerant):
    """A checkpoint in a bucket of S3, or of another server that speaks its API."""

    uri: str
    """`s3://bucket/prefix`."""
    region: str = DEFAULT_S3_REGION
    endpoint: str = ""
    """Empty for AWS."""
    revision: str | None = None
    """The state of the objects that prepare found; for prepare, that of an earlier attempt."""
    resolved_at: AwareDatetime | None = None
    access_key_id_file: str | None = None
    """Files of keys are read at each use. None: the pod's own identity."""
    secret_access_key_file: str | None = None
    session_token_file: str | None = None
    anonymous: bool = False
    requester_pays: bool = False
    ca_file: str | None = None
    """PEM certificates, trusted in addition to the system's; a missing file adds none."""
    check_seconds: int | None = None
    """Serve only: how often a worker that answers lists the bucket, to see whether the state has moved; None for
    never."""


def _usual_instance_type(given: dict[str, Any]) -> str:
    return DEFAULT_MACHINE.name if given.get("engine") is Engine.NEURON else ""


ADDED_FIELDS: Final = (
    "seal",
    "verification",
    "scratch_tier",
    "scratch_on_node",
    "keys_in_use",
    "weights",
    "server",
    "instance_type",
    "start_timeout_seconds",
    "hub_source",
    "s3_source",
    "extra_args",
)
"""Fields of WorkerConfig that have a default and were added after the first version: the operator leaves them out while
they have it, so that its upgrade replaces no pod. A new field belongs here."""


class WorkerConfig(Tolerant):
    """The complete configuration of `neuronmodel prepare`, `neuronmodel serve` and `neuronmodel cleanup`."""

    namespace: str
    name: str
    uid: str
    """The NeuronModel's UID."""
    spec_hash: str
    """What the pod was made from (inputs hash of a Job, template hash of a Deployment); its report carries it."""
    engine: Engine = Engine.NEURON
    strategy: Strategy = Strategy.SHARD_ON_COMPILE
    """Never Auto for serve."""
    seal: Seal = Seal.BEFORE
    """Only used with ShardOnCompile."""
    weights: Weights = Weights.STREAMED
    server: Server = Server.OPENAI
    extra_args: tuple[str, ...] = ()
    """Further arguments of `vllm serve`."""
    instance_type: str = Field(default_factory=_usual_instance_type)
    """The instance type of the nodes where the model will serve; "" where it does not matter. If absent, the one that
    the operator selects for the engine by default."""
    start_timeout_seconds: int = 3600
    """How long a start may make no progress; devices that are in use are waited for as long."""
    verification: Verification = Verification.QUICK
    source_path: str | None = None
    """The checkpoint's directory inside the pod; None for cleanup."""
    hub_source: HubSource | None = None
    """The checkpoint, where it is a repository; then there is no `source_path`."""
    s3_source: S3Source | None = None
    """The checkpoint, where it is in a bucket; then there is no `source_path`."""
    source_display: str = ""
    """The source as the user named it ("claim models, path SmolLM2"): the pod's own paths mean nothing to them."""
    model_type: str | None = None
    """None to take it from config.json."""
    served_name: str = ""
    neuron_config: dict[str, Any] = Field(default_factory=dict)
    """NxD Inference's NeuronConfig fields, by its names."""
    generation_config: dict[str, Any] = Field(default_factory=dict)
    """pad_token_id and the like, which go to transformers' GenerationConfig."""
    artifacts_path: str = names.ARTIFACTS_MOUNT
    scratch_path: str = names.SCRATCH_MOUNT
    scratch_tier: bool = False
    """Whether the scratch volume keeps copies of what is loaded: only a volume that the spec names is large enough."""
    scratch_limit_bytes: int | None = None
    """How much a pod may write to its scratch volume before it is evicted; None for as much as fits."""
    scratch_on_node: bool = True
    """Prepare only: whether the scratch volume is on the node's own disk (an emptyDir or a host path), that is on the
    machine's NVMe."""
    compiled_key: str | None = None
    """Serve only: the key that prepare returned."""
    shards_key: str | None = None
    """Serve only, with ShardOnCompile."""
    source_fingerprint: str | None = None
    """Serve only: the fingerprint that prepare found; a different one now means `SourceChanged`."""
    source_content: str | None = None
    """Serve only: the source's content ID that prepare found, which is part of the shards' key."""
    keys_in_use: tuple[str, ...] = ()
    """Prepare and cleanup: keys of sets, and revisions of sources, that pod templates of workers on this artifacts
    volume refer to; they are not collected."""
    history: History | None = None
    """Prepare with Auto only."""
    serving_port: int = names.SERVING_PORT
    admin_port: int = names.ADMIN_PORT
    api_key_file: str | None = None
    shutdown_seconds: int = 30
    """How long running requests may take after SIGTERM, in seconds."""
