"""The inputs of a Llama graph: the architecture in config.json and the flags that determine the graph, without weights.

All of it is part of a compiled model's key, so nothing else can change the graph.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, ValidationError

from neuronmodel_api.reasons import Reason
from neuronmodel_worker.engines.rank_tensors import TensorForm
from neuronmodel_worker.failures import BadInput, ConfigInvalid
from neuronmodel_worker.layouts.geometry import equal_part
from neuronmodel_worker.layouts.heads import place_heads
from neuronmodel_worker.layouts.legacy_config import scaling_kind
from neuronmodel_worker.layouts.model_config import ModelConfig, parse_config
from neuronmodel_worker.layouts.sharding_flags import Flags
from neuronmodel_worker.neuron_config.values import DEFAULT_SEQUENCE_LENGTH
from neuronmodel_worker.plan.streamed import StreamedPlan

PositiveNumber = Annotated[float, Field(gt=0, allow_inf_nan=False)]

FAMILY: Final = "llama"
"""The model type that the CPU engine runs."""


class EngineRefused(BadInput):
    """The CPU engine does not compute what this checkpoint or these flags ask for."""

    reason = Reason.ENGINE_REFUSED


class LlamaConfig(ModelConfig):
    """The fields that decide values and not only shapes, as transformers 4 names them, with its defaults for Llama."""

    rms_norm_eps: PositiveNumber = 1e-6
    rope_theta: PositiveNumber = 10000.0
    rope_scaling: dict[str, Any] | None = None
    max_position_embeddings: PositiveInt = 2048
    hidden_act: str = "silu"


class Lengths(BaseModel):
    """The sizes of a graph in NeuronConfig, with NxD Inference's names and defaults."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    batch_size: PositiveInt = 1
    seq_len: PositiveInt = DEFAULT_SEQUENCE_LENGTH
    max_context_length: PositiveInt | None = None


@dataclass(frozen=True)
class LlamaShape:
    """The inputs of a graph. `heads` and `key_value_heads` are those of one rank, including padding; `vocabulary` and
    `hidden_size` are the model's."""

    degree: int
    dtype: str
    layers: int
    hidden_size: int
    vocabulary: int
    heads: int
    key_value_heads: int
    head_size: int
    norm_epsilon: float
    rope_theta: float
    rope_scaling: Mapping[str, float] | None
    """None means no scaling, `factor` alone linear scaling, and with Llama 3's other numbers Llama 3's scaling."""
    attention_bias: bool
    mlp_bias: bool
    fused_qkv: bool
    vocabulary_rows: int
    """The rows of one rank's embeddings with vocab_parallel; 0 if they are split by columns."""
    transposed_qkv: bool
    transposed_mlp: bool
    transposed_out: bool
    skip_gamma_qkv: bool
    skip_gamma_mlp: bool
    batch_size: int
    sequence_length: int
    context_length: int
    """The longest prompt."""
    rank_tensors: Mapping[str, TensorForm]
    """The tensors of every rank, by name."""

    def inputs(self) -> dict[str, object]:
        return asdict(self)


def llama_shape(plan: StreamedPlan, neuron_config: Mapping[str, object]) -> LlamaShape:
    """The inputs of a plan's graph. Raises EngineRefused for what the CPU engine does not compute, ConfigInvalid for a
    wrong config.json."""
    flags = plan.layout.flags
    _check_family(plan)
    _check_whole(flags)
    config = parse_config(plan.checkpoint, LlamaConfig)
    _check_activation(config)
    lengths = _lengths(neuron_config)
    heads = place_heads(config.num_attention_heads, config.key_value_heads, flags.tp_degree)
    head_size = config.head_dim or config.divided_head_size
    return LlamaShape(
        degree=flags.tp_degree,
        dtype=plan.layout.dtype,
        layers=config.num_hidden_layers,
        hidden_size=config.hidden_size,
        vocabulary=config.vocab_size,
        heads=len(heads.query) // flags.tp_degree,
        key_value_heads=len(heads.key_value) // flags.tp_degree,
        head_size=head_size,
        norm_epsilon=config.rms_norm_eps,
        rope_theta=config.rope_theta,
        rope_scaling=rope_scaling(config),
        attention_bias=bool(config.attention_bias),
        mlp_bias=bool(config.mlp_bias),
        fused_qkv=flags.fused_qkv,
        vocabulary_rows=equal_part(config.vocab_size, flags.tp_degree) if flags.vocab_parallel else 0,
        transposed_qkv=flags.transposed_fused_qkv,
        transposed_mlp=flags.transposed_mlp,
        transposed_out=flags.transposed_out,
        skip_gamma_qkv=flags.skip_gamma_qkv,
        skip_gamma_mlp=flags.skip_gamma_mlp,
        batch_size=lengths.batch_size,
        sequence_length=lengths.seq_len,
        context_length=min(lengths.max_context_length or lengths.seq_len, lengths.seq_len),
        rank_tensors={tensor.name: (tensor.dtype, tensor.shape) for tensor in plan.tensors},
    )


def _check_family(plan: StreamedPlan) -> None:
    if plan.layout.family != FAMILY:
        raise EngineRefused(
            f"The CPU engine runs Llama models, and this checkpoint is of type {plan.layout.family}. "
            "Use a Llama checkpoint, or engine: Neuron."
        )


def _check_whole(flags: Flags) -> None:
    if flags.local_ranks < flags.tp_degree:
        raise EngineRefused(
            f"The CPU engine computes all {flags.tp_degree} ranks in one process, and local_ranks_size is "
            f"{flags.local_ranks}. Leave start_rank_id and local_ranks_size out."
        )


def _check_activation(config: LlamaConfig) -> None:
    if config.hidden_act not in ("silu", "swish"):
        raise EngineRefused(
            f"config.json has hidden_act {config.hidden_act!r}, and the CPU engine knows silu alone. "
            "Use a checkpoint with silu, or engine: Neuron."
        )


def _lengths(neuron_config: Mapping[str, object]) -> Lengths:
    try:
        return Lengths.model_validate(dict(neuron_config))
    except ValidationError as error:
        first: Any = error.errors()[0]
        name = ".".join(map(str, first["loc"]))
        raise EngineRefused(
            f"The flag {name} is wrong: {first['msg'].lower()}. Set it to a positive integer."
        ) from error


# Rotary position embeddings.


class LlamaThreeScaling(BaseModel):
    """rope_scaling of Llama 3.1 and later."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    factor: PositiveNumber
    low_freq_factor: PositiveNumber
    high_freq_factor: PositiveNumber
    original_max_position_embeddings: PositiveInt


class LinearScaling(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)

    factor: PositiveNumber


def rope_scaling(config: LlamaConfig) -> Mapping[str, float] | None:
    """The value of `LlamaShape.rope_scaling`. Raises EngineRefused, ConfigInvalid."""
    scaling = config.rope_scaling or {}
    kind = scaling_kind(scaling)
    kinds: dict[str, type[BaseModel]] = {"linear": LinearScaling, "llama3": LlamaThreeScaling}
    if kind == "default":
        return None
    if not isinstance(kind, str) or kind not in kinds:
        raise EngineRefused(
            f"config.json has rotary position embeddings of type {kind!r} (rope_parameters or rope_scaling), and the "
            "CPU engine knows default, linear and llama3. Use another checkpoint, or engine: Neuron."
        )
    try:
        return kinds[kind].model_validate(scaling).model_dump()
    except ValidationError as error:
        first: Any = error.errors()[0]
        name = ".".join(map(str, first["loc"]))
        raise ConfigInvalid(
            f"config.json gives rotary position embeddings of type {kind!r} (rope_parameters or rope_scaling) with a "
            f"wrong {name}: {first['msg'].lower()}. Put the checkpoint's own config.json there."
        ) from error
