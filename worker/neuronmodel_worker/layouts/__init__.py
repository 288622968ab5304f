"""One file a model family: what the shards of a checkpoint look like, as data, from headers and flags alone."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Generic

from neuronmodel_worker.checkpoint import Checkpoint
from neuronmodel_worker.failures import ConfigInvalid, UnknownModelType
from neuronmodel_worker.layouts.draft import AnyConfig, Draft, ModelConfig, dtype_in_force, parse_config
from neuronmodel_worker.layouts.flags import LAYOUT_VERSION, WITHOUT_LAYOUT_QWEN3_MOE, Flags, read_flags
from neuronmodel_worker.layouts.geometry import Target
from neuronmodel_worker.layouts.llama import lay_out_llama
from neuronmodel_worker.layouts.mistral import MistralConfig, lay_out_mistral
from neuronmodel_worker.layouts.mixtral import MixtralConfig, lay_out_mixtral
from neuronmodel_worker.layouts.qwen2 import Qwen2Config, lay_out_qwen2
from neuronmodel_worker.layouts.qwen3 import Qwen3Config, lay_out_qwen3
from neuronmodel_worker.layouts.qwen3_moe import Qwen3MoeConfig, lay_out_qwen3_moe


@dataclass(frozen=True)
class Family(Generic[AnyConfig]):
    """A model type: what its config.json holds, how its tensors are laid out, and which flags it alone refuses."""

    config: type[AnyConfig]
    lay_out: Callable[[Draft, AnyConfig], None]
    without_layout: Mapping[str, tuple[object, ...]] = field(default_factory=dict)

    def draft(self, checkpoint: Checkpoint, neuron_config: Mapping[str, object]) -> Draft:
        config = parse_config(checkpoint, self.config)
        flags = read_flags(neuron_config, self.without_layout)
        draft = Draft(checkpoint, flags, dtype_in_force(flags, config))
        self.lay_out(draft, config)
        return draft


FAMILIES: Mapping[str, Family[Any]] = {
    "llama": Family(ModelConfig, lay_out_llama),
    "mistral": Family(MistralConfig, lay_out_mistral),
    "mixtral": Family(MixtralConfig, lay_out_mixtral),
    "qwen2": Family(Qwen2Config, lay_out_qwen2),
    "qwen3": Family(Qwen3Config, lay_out_qwen3),
    "qwen3_moe": Family(Qwen3MoeConfig, lay_out_qwen3_moe, WITHOUT_LAYOUT_QWEN3_MOE),
}


@dataclass(frozen=True)
class Layout:
    """Every tensor of every rank. `rank_tensors` are int32 vectors of one element, the rank's number."""

    family: str
    flags: Flags
    dtype: str
    targets: tuple[Target, ...]
    rank_tensors: tuple[str, ...]
    warnings: tuple[str, ...]

    def inputs(self) -> dict[str, object]:
        """What determines the bytes of the shards, beside the source's content: the type in force, whoever named it,
        and no kernel of a weight that is not fused, as either would make the same shards anew."""
        flags = {**asdict(self.flags), "dtype": self.dtype, "transposed_qkv": self.flags.transposed_fused_qkv}
        return {**flags, "family": self.family, "layout_version": LAYOUT_VERSION}


def lay_out(checkpoint: Checkpoint, neuron_config: Mapping[str, object], model_type: str | None = None) -> Layout:
    """Raises UnknownModelType, ConfigInvalid, LayoutRefused, TensorMissing or TensorShapeMismatch."""
    name = model_type or _model_type(checkpoint)
    family = FAMILIES.get(name)
    if family is None:
        raise UnknownModelType(name, sorted(FAMILIES))
    draft = family.draft(checkpoint, neuron_config)
    return Layout(
        name, draft.flags, draft.dtype, tuple(draft.targets), tuple(draft.rank_tensors), tuple(draft.warnings)
    )


def _model_type(checkpoint: Checkpoint) -> str:
    name = checkpoint.config.get("model_type")
    if not isinstance(name, str) or not name:
        raise ConfigInvalid(
            f"config.json in {checkpoint.path} has no model_type. Put the checkpoint's own config.json there, or set "
            "the model's type in the spec."
        )
    return name
