"""What the operator tells a worker: one JSON document in the environment variable `names.ENV_CONFIG`."""

from enum import StrEnum
from typing import Any

from pydantic import Field

from neuronmodel_api.model import Tolerant


class Engine(StrEnum):
    NEURON = "Neuron"
    CPU = "CPU"


class Strategy(StrEnum):
    SHARD_ON_COMPILE = "ShardOnCompile"
    SHARD_ON_LOAD = "ShardOnLoad"


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
    artifacts_path: str = "/artifacts"
    scratch_path: str = "/scratch"
    compiled_key: str | None = None
    """Serve only: what prepare returned."""
    shards_key: str | None = None
    """Serve only, with ShardOnCompile."""
    source_fingerprint: str | None = None
    """Serve only: what prepare saw; another one now means `SourceChanged`."""
    serving_port: int = 8000
    admin_port: int = 9808
    api_key_file: str | None = None
    shutdown_seconds: int = 30
    """How long answers under way may take after SIGTERM."""
