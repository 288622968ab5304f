"""Layouts, one file for each model family: the shards of a checkpoint as data, from headers and flags alone."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Generic

from neuronmodel_worker.checkpoint import (
    Checkpoint,
    refuse_unsupported,
    require_causal_lm,
)
from neuronmodel_worker.failures import ConfigInvalid, ModelTypeWithoutLayout
from neuronmodel_worker.layouts.builder import LayoutBuilder
from neuronmodel_worker.layouts.config_checks import check_config
from neuronmodel_worker.layouts.flag_support import flag_warnings, refuse_flags_without_layout
from neuronmodel_worker.layouts.geometry import Target
from neuronmodel_worker.layouts.heads import CacheShape
from neuronmodel_worker.layouts.legacy_config import legacy_config_of, where_of
from neuronmodel_worker.layouts.llama import lay_out_llama, refuse_llama_flags
from neuronmodel_worker.layouts.mistral import MistralConfig, lay_out_mistral, refuse_mistral_flags
from neuronmodel_worker.layouts.mixtral import MixtralConfig, lay_out_mixtral, refuse_mixtral_flags
from neuronmodel_worker.layouts.model_config import AnyConfig, ModelConfig, parse_config, resolve_dtype
from neuronmodel_worker.layouts.qwen2 import Qwen2Config, lay_out_qwen2
from neuronmodel_worker.layouts.qwen3 import Qwen3Config, lay_out_qwen3
from neuronmodel_worker.layouts.qwen3_moe import Qwen3MoeConfig, lay_out_qwen3_moe
from neuronmodel_worker.layouts.sharding_flags import LAYOUT_VERSION, Flags, read_flags, torch_dtype_yields
from neuronmodel_worker.neuron_config.combinations import refuse_combinations


@dataclass(frozen=True)
class Family(Generic[AnyConfig]):
    """A model type: its name, its config.json, how its tensors are laid out, which switches of `Flags` it ignores, and
    which flags it refuses whatever the model's sizes."""

    name: str
    config: type[AnyConfig]
    lay_out: Callable[[LayoutBuilder, AnyConfig], None]
    ignored: frozenset[str] = frozenset()
    refuse: Callable[[Flags], None] = lambda flags: None

    def read(self, neuron_config: Mapping[str, object], model: Mapping[str, object] | None = None) -> Flags:
        """The flags of a layout. `model` is config.json, where it is known. Raises LayoutRefused for flags that have no
        layout in this family."""
        refuse_flags_without_layout(neuron_config, self.name, model)
        flags = read_flags(neuron_config).without(self.ignored)
        self.refuse(flags)
        return flags

    def build(self, checkpoint: Checkpoint, neuron_config: Mapping[str, object]) -> LayoutBuilder:
        config, model = parse_config(checkpoint, self.config), legacy_config_of(checkpoint)
        flags = self.read(neuron_config, model)
        refuse_combinations(neuron_config, model, self.name)
        dtype = resolve_dtype(flags, config, torch_dtype_yields(neuron_config))
        builder = LayoutBuilder(checkpoint, flags, dtype, config.assumed, config.sizes)
        builder.warnings += flag_warnings(neuron_config)
        builder.warnings += check_config(model, self.name, neuron_config, where_of(checkpoint))
        warn_of_assumed_sizes(builder)
        self.lay_out(builder, config)
        return builder


LLAMA_ONLY = frozenset({"vocab_parallel", "skip_gamma_qkv", "skip_gamma_mlp"})
DENSE_ONLY = frozenset({"transposed_mlp"})


FAMILIES: Mapping[str, Family[Any]] = {
    family.name: family
    for family in (
        Family("llama", ModelConfig, lay_out_llama, refuse=refuse_llama_flags),
        Family("mistral", MistralConfig, lay_out_mistral, LLAMA_ONLY, refuse_mistral_flags),
        Family("mixtral", MixtralConfig, lay_out_mixtral, LLAMA_ONLY | DENSE_ONLY, refuse_mixtral_flags),
        Family("qwen2", Qwen2Config, lay_out_qwen2, LLAMA_ONLY),
        Family("qwen3", Qwen3Config, lay_out_qwen3, LLAMA_ONLY),
        Family("qwen3_moe", Qwen3MoeConfig, lay_out_qwen3_moe, LLAMA_ONLY | DENSE_ONLY),
    )
}


@dataclass(frozen=True)
class Layout:
    """Every tensor of every rank. `rank_tensors` are int32 vectors of one element, the rank's number; `sizes` are the
    model's, from config.json."""

    family: str
    flags: Flags
    dtype: str
    sizes: Mapping[str, object]
    targets: tuple[Target, ...]
    rank_tensors: tuple[str, ...]
    warnings: tuple[str, ...]
    cache: CacheShape | None = None

    def inputs(self) -> dict[str, object]:
        """Everything that determines the bytes of the shards in addition to the source's content, and nothing that
        gives the same shards another key: the resolved type, wherever it was set; no kernel of a weight that is not
        fused; no `as-declared` where everything is float32 anyway. The sizes of config.json are part of it, because the
        same weights with another number of heads are split differently."""
        flags = {**asdict(self.flags), "dtype": self.dtype, "transposed_qkv": self.flags.transposed_fused_qkv}
        cast = "config" if self.dtype == "F32" else self.flags.cast
        return {
            **flags,
            "cast": cast,
            "family": self.family,
            "model": dict(self.sizes),
            "layout_version": LAYOUT_VERSION,
        }


def lay_out(checkpoint: Checkpoint, neuron_config: Mapping[str, object], model_type: str | None = None) -> Layout:
    """The layout of a checkpoint's shards. Raises CheckpointQuantized, ModelTypeWithoutLayout, ConfigInvalid,
    LayoutRefused, TensorMissing or TensorShapeMismatch."""
    named = model_type or checkpoint.config.get("model_type")
    refuse_unsupported(checkpoint, neuron_config, has_layout=isinstance(named, str) and named in FAMILIES)
    name = model_type or model_type_of(checkpoint)
    family = FAMILIES.get(name)
    if family is None:
        raise ModelTypeWithoutLayout(
            f"No layout is known for model type {name[:100]!r}; there are layouts for {', '.join(sorted(FAMILIES))}.",
            "Use a checkpoint of one of these families",
        )
    without_head = require_causal_lm(checkpoint)
    builder = family.build(checkpoint, neuron_config)
    return Layout(
        family=name,
        flags=builder.flags,
        dtype=builder.dtype,
        sizes=builder.sizes,
        targets=tuple(builder.targets),
        rank_tensors=tuple(builder.rank_tensors),
        warnings=(*without_head, *builder.warnings),
        cache=builder.cache,
    )


def warn_of_assumed_sizes(builder: LayoutBuilder) -> None:
    if builder.assumed:
        sizes = ", ".join(f"{name} {value}" for name, value in builder.assumed.items())
        builder.warnings.append(
            f"config.json in {builder.checkpoint.path} leaves out sizes, which are taken as transformers takes them: "
            f"{sizes}."
        )


def model_type_of(checkpoint: Checkpoint) -> str:
    """The model type in config.json. Raises ConfigInvalid."""
    name = checkpoint.config.get("model_type")
    if not isinstance(name, str) or not name:
        raise ConfigInvalid(
            f"config.json in {checkpoint.path} has no model_type. Put the checkpoint's own config.json there, or set "
            "the model's type in the spec."
        )
    return name
