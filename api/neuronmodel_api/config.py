"""The configuration that the operator passes to a worker: one JSON document in the environment variable
`names.ENV_CONFIG`."""

from enum import StrEnum
from typing import Any, Final, Self

from pydantic import Field

from neuronmodel_api import names
from neuronmodel_api.machines import DEFAULT_MACHINE
from neuronmodel_api.model import Tolerant
from neuronmodel_api.sources import HubSource, NetworkSourceConfig, S3Source


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

    @property
    def network_source(self) -> NetworkSourceConfig | None:
        """The checkpoint, where it is read over a network."""
        return next((value for _, value in self if isinstance(value, NetworkSourceConfig)), None)

    def with_network_source(self, source: NetworkSourceConfig) -> Self:
        """Returns the same with the source in its field."""
        field = next(name for name, value in self if isinstance(value, type(source)))
        return self.model_copy(update={field: source})
