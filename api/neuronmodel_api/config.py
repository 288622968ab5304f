"""What the operator tells a worker: one JSON document in the environment variable `names.ENV_CONFIG`."""

from enum import StrEnum
from typing import Any

from pydantic import Field

from neuronmodel_api import names
from neuronmodel_api.machines import DEFAULT_MACHINE
from neuronmodel_api.model import Tolerant


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
    """The worker's own readers lay them out and hand them to the engine."""
    NATIVE = "Native"
    """NxD Inference's own code does, in a process of its own."""


class Server(StrEnum):
    OPENAI = "OpenAI"
    """The worker answers itself."""
    VLLM = "VLLM"
    """The worker prepares the start, runs vLLM, and passes requests on to it."""


class Verification(StrEnum):
    QUICK = "Quick"
    """Manifest, sizes, headers."""
    FULL = "Full"
    """Every byte as well."""


class History(Tolerant):
    """What `Auto` learns from: the starts that `status.starts` still tells of, and what was chosen before."""

    former_strategy: Strategy | None = None
    """In force when this was asked for; None: nothing was."""
    starts: int = 0
    """That became ready, or are on their way to it."""
    sources: int = 0
    """Different contents of the source that they loaded; at least 1 where there was a start."""
    read_bytes_per_second: int | None = None
    """Of the latest start that read sealed shards from the artifacts volume."""
    sharded_bytes_per_second: int | None = None
    """Of the latest start that sharded the checkpoint while it loaded, in bytes of the checkpoint."""


def _usual_instance_type(given: dict[str, Any]) -> str:
    return DEFAULT_MACHINE.name if given.get("engine") is Engine.NEURON else ""


class WorkerConfig(Tolerant):
    """The whole instruction for `neuronmodel prepare`, `neuronmodel serve` and `neuronmodel cleanup`."""

    namespace: str
    name: str
    uid: str
    """The NeuronModel's UID."""
    spec_hash: str
    """What the pod was made from (inputs hash of a Job, template hash of a Deployment); its report carries it back."""
    engine: Engine = Engine.NEURON
    strategy: Strategy = Strategy.SHARD_ON_COMPILE
    """Serve: never Auto."""
    seal: Seal = Seal.BEFORE
    """With ShardOnCompile."""
    weights: Weights = Weights.STREAMED
    server: Server = Server.OPENAI
    instance_type: str = Field(default_factory=_usual_instance_type)
    """Of the nodes where the model is going to serve, by their label; "" where that does not matter. Absent: what the
    operator selects for the engine where the spec says nothing."""
    start_timeout_seconds: int = 3600
    """How long a start may stand still: devices that are not free yet are waited for as long."""
    verification: Verification = Verification.QUICK
    source_path: str | None = None
    """The checkpoint's directory inside the pod; None for cleanup."""
    source_display: str = ""
    """What the user called the source ("claim models, path SmolLM2"): the pod's own paths tell them nothing."""
    model_type: str | None = None
    """None: from config.json."""
    served_name: str = ""
    neuron_config: dict[str, Any] = Field(default_factory=dict)
    """NxD Inference's NeuronConfig fields, by its names."""
    generation_config: dict[str, Any] = Field(default_factory=dict)
    """pad_token_id and the like, which go to transformers' GenerationConfig."""
    artifacts_path: str = names.ARTIFACTS_MOUNT
    scratch_path: str = names.SCRATCH_MOUNT
    scratch_tier: bool = False
    """Whether the scratch volume keeps copies of what is loaded: only one that the spec names is big enough."""
    scratch_limit_bytes: int | None = None
    """What a pod may write to its scratch volume before it is evicted; None: as much as fits."""
    scratch_on_node: bool = True
    """Prepare only: whether the scratch volume is the node's own disk, an emptyDir or a folder of it: the machine's
    NVMe, then."""
    compiled_key: str | None = None
    """Serve only: what prepare returned."""
    shards_key: str | None = None
    """Serve only, with ShardOnCompile."""
    source_fingerprint: str | None = None
    """Serve only: what prepare saw; another one now means `SourceChanged`."""
    source_content: str | None = None
    """Serve only: what prepare found the source's content to be, a part of the shards' key."""
    keys_in_use: tuple[str, ...] = ()
    """Prepare and cleanup: of sets that templates of worker pods name, on this artifacts volume; not collected."""
    history: History | None = None
    """Prepare with Auto only."""
    serving_port: int = names.SERVING_PORT
    admin_port: int = names.ADMIN_PORT
    api_key_file: str | None = None
    shutdown_seconds: int = 30
    """How long answers under way may take after SIGTERM."""
