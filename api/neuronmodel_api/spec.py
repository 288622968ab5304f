"""`spec` of a NeuronModel, as the API server returns it; the schema in crds/ is the contract."""

from enum import StrEnum
from typing import Any, Literal

from pydantic import ConfigDict, Field
from pydantic.alias_generators import to_camel

from neuronmodel_api import names
from neuronmodel_api.config import Engine, Seal, Server, Strategy, Verification, Weights
from neuronmodel_api.model import Tolerant
from neuronmodel_api.references import KeyRef
from neuronmodel_api.sources import S3, HuggingFace, NetworkSource

Object = dict[str, Any]
"""A part of the Kubernetes API that is passed through unchanged; the API server has validated it."""


class Retention(StrEnum):
    RETAIN = "Retain"
    DELETE = "Delete"


class UpdateStrategy(StrEnum):
    RECREATE = "Recreate"
    ROLLING = "Rolling"


class ClaimPath(Tolerant):
    claim_name: str
    path: str = ""
    """Relative to the claim's root; "" is the root."""


class HostPath(Tolerant):
    path: str


class Source(Tolerant):
    """Exactly one member is set."""

    persistent_volume_claim: ClaimPath | None = None
    host_path: HostPath | None = None
    hugging_face: HuggingFace | None = None
    s3: S3 | None = None

    @property
    def on_network(self) -> NetworkSource | None:
        """The member that is read over a network, without a volume."""
        return next((member for _, member in self if isinstance(member, NetworkSource)), None)


class Model(Tolerant):
    source: Source
    type: str | None = None
    served_name: str | None = None


class Parallelism(Tolerant):
    tensor_parallel_degree: int
    logical_neuron_core_config: int | None = None
    """1 or 2; absent with engine Neuron: 2, trn2's own default."""
    start_rank: int = 0
    local_ranks: int | None = None
    """Absent: all from start_rank to the degree."""

    @property
    def num_local_ranks(self) -> int:
        return self.local_ranks if self.local_ranks is not None else self.tensor_parallel_degree - self.start_rank

    @property
    def is_partial(self) -> bool:
        return self.num_local_ranks < self.tensor_parallel_degree


class OnDeviceSampling(Tolerant):
    do_sample: bool | None = None
    top_k: int | None = None
    top_p: str | None = None
    """A decimal."""
    temperature: str | None = None
    """A decimal."""
    dynamic: bool | None = None
    deterministic: bool | None = None
    global_top_k: int | None = None
    top_k_kernel: bool | None = None


def _compile_alias(field: str) -> str:
    return {"fused_qkv": "fusedQKV", "pad_token_id": "padTokenID"}.get(field, to_camel(field))


class ExtraFlag(Tolerant):
    name: str
    value: Any = None


class Compile(Tolerant):
    model_config = ConfigDict(alias_generator=_compile_alias)

    torch_dtype: Literal["bfloat16", "float16", "float32"] | None = None
    batch_size: int | None = None
    max_context_length: int | None = None
    sequence_length: int | None = None
    fused_qkv: bool | None = None
    sequence_parallel: bool | None = None
    qkv_kernel: bool | None = None
    attention_kernel: bool | None = None
    mlp_kernel: bool | None = None
    cc_pipeline_tiling_factor: int | None = None
    on_device_sampling: OnDeviceSampling | None = None
    pad_token_id: int | None = None
    extra: tuple[ExtraFlag, ...] = ()


class Sharding(Tolerant):
    strategy: Strategy | None = None
    """Absent: Auto."""
    seal: Seal | None = None
    """Absent: Before."""
    weights: Weights | None = None
    """Absent: Streamed."""


class ClaimName(Tolerant):
    claim_name: str


class ClaimTemplate(Tolerant):
    storage_class_name: str | None = None
    size: str
    access_modes: tuple[str, ...] = ("ReadWriteOnce",)


class Artifacts(Tolerant):
    """Exactly one of persistent_volume_claim and template is set."""

    persistent_volume_claim: ClaimName | None = None
    template: ClaimTemplate | None = None
    retention: Retention = Retention.RETAIN
    verification: Verification = Verification.QUICK


class EmptyDir(Tolerant):
    size_limit: str | None = None


class Scratch(Tolerant):
    """At most one member is set; none: an emptyDir."""

    empty_dir: EmptyDir | None = None
    ephemeral: ClaimTemplate | None = None
    persistent_volume_claim: ClaimName | None = None
    host_path: HostPath | None = None


class Prepare(Tolerant):
    """Placement of the Job; absent fields default to the worker's, without devices."""

    resources: Object | None = None
    node_selector: dict[str, str] | None = None
    tolerations: tuple[Object, ...] | None = None
    affinity: Object | None = None


class Worker(Tolerant):
    image: str | None = None
    image_pull_policy: str | None = None
    image_pull_secrets: tuple[Object, ...] = ()
    resources: Object | None = None
    node_selector: dict[str, str] | None = None
    tolerations: tuple[Object, ...] | None = None
    affinity: Object | None = None
    topology_spread_constraints: tuple[Object, ...] = ()
    scheduler_name: str | None = None
    priority_class_name: str | None = None
    service_account_name: str | None = None
    resource_claims: tuple[Object, ...] = ()
    """As PodSpec.resourceClaims (dynamic resource allocation): with one, no `aws.amazon.com/neuron` is requested."""
    env: tuple[Object, ...] = ()
    volumes: tuple[Object, ...] = ()
    volume_mounts: tuple[Object, ...] = ()
    pod_labels: dict[str, str] = Field(default_factory=dict)
    pod_annotations: dict[str, str] = Field(default_factory=dict)
    termination_grace_period_seconds: int | None = None


class Serving(Tolerant):
    server: Server | None = None
    """Absent: OpenAI."""
    extra_args: tuple[str, ...] = ()
    port: int = names.SERVING_PORT
    replicas: int = 1
    update_strategy: UpdateStrategy | None = None
    """Absent: Recreate at one replica, Rolling above."""
    start_timeout_seconds: int = 3600
    api_key_secret_ref: KeyRef | None = None


class NeuronModelSpec(Tolerant):
    model: Model
    engine: Engine = Engine.NEURON
    parallelism: Parallelism
    compile: Compile = Compile()
    sharding: Sharding = Sharding()
    artifacts: Artifacts
    scratch: Scratch = Scratch()
    prepare: Prepare = Prepare()
    worker: Worker = Worker()
    serving: Serving = Serving()
    suspend: bool = False
