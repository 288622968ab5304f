"""The decoder that Mixtral and Qwen3-MoE share: every layer's experts stacked into two tensors, and a router."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from neuronmodel_worker.checkpoint import TensorSource
from neuronmodel_worker.failures import LayoutRefused
from neuronmodel_worker.layouts.builder import LayoutBuilder
from neuronmodel_worker.layouts.dense import Decoder, Traits, lay_out_decoder
from neuronmodel_worker.layouts.geometry import SourcePart
from neuronmodel_worker.layouts.heads import heads_rule
from neuronmodel_worker.layouts.model_config import ModelConfig
from neuronmodel_worker.layouts.tp_degrees import divides


@dataclass(frozen=True, slots=True)
class Experts:
    """The experts of a layer. `size` is the intermediate size of one expert and `size_field` its field in config.json;
    `module` and `gate`, `up`, `down` are the checkpoint's names."""

    count: int
    size: int
    size_field: str
    module: str
    gate: str
    up: str
    down: str
    declared: str | None = None
    know_rank: bool = False


@dataclass(frozen=True)
class SparseDecoder(Decoder):
    experts: Experts

    def add_mlp(self, layer: str) -> None:
        builder, experts, hidden = self.builder, self.experts, self.config.hidden_size
        router = builder.take(f"model.{layer}{experts.module}.gate.weight", (experts.count, hidden))
        builder.add(
            f"{layer}mlp.router.linear_router.weight", SourcePart(router, self.whole(router.shape)), declared="F32"
        )
        stacks = f"{layer}mlp.expert_mlps.mlp_op."
        gates_and_ups = [(self.wide(layer, i, experts.gate), self.wide(layer, i, experts.up)) for i in self.numbers]
        downs = [(self.narrow(layer, i, experts.down),) for i in self.numbers]
        refuse_mixed_types([part.source for parts in (*gates_and_ups, *downs) for part in parts])
        builder.add_stack(f"{stacks}gate_up_proj.weight", gates_and_ups, experts.declared)
        builder.add_stack(f"{stacks}down_proj.weight", downs, experts.declared)
        if experts.know_rank:
            builder.rank_tensors.append(f"{layer}mlp.expert_mlps.spmd_rank.rank")

    @property
    def numbers(self) -> range:
        return range(self.experts.count)

    def wide(self, layer: str, expert: int, name: str) -> SourcePart:
        """An expert's gate or up projection, of which each rank has some of the rows."""
        shape = (self.experts.size, self.config.hidden_size)
        source = self.builder.take(f"model.{layer}{self.experts.module}.experts.{expert}.{name}.weight", shape)
        return SourcePart(source, self.by_rows(shape))

    def narrow(self, layer: str, expert: int, name: str) -> SourcePart:
        """An expert's down projection, of which each rank has some of the columns."""
        shape = (self.config.hidden_size, self.experts.size)
        source = self.builder.take(f"model.{layer}{self.experts.module}.experts.{expert}.{name}.weight", shape)
        return SourcePart(source, self.by_columns(shape))


def refuse_mixed_types(experts: Sequence[TensorSource]) -> None:
    """Raises LayoutRefused: NxD Inference stacks a layer's experts in the type of the first one before any cast, so
    that others lose precision twice."""
    first = experts[0]
    other = next((expert for expert in experts if expert.dtype != first.dtype), None)
    if other:
        raise LayoutRefused(
            f"The experts of a layer have to be of one type, and {first.name} is {first.dtype}, {other.name} "
            f"{other.dtype}. Use a checkpoint of one type."
        )


def lay_out_moe(builder: LayoutBuilder, config: ModelConfig, traits: Traits, experts: Experts) -> None:
    refuse_tied_embeddings(config)
    sizes = {"vocab_size": config.vocab_size, "hidden_size": config.hidden_size, experts.size_field: experts.size}
    rules = [
        divides(sizes, "nothing is padded in a mixture of experts"),
        heads_rule(config.num_attention_heads, config.key_value_heads),
    ]
    lay_out_decoder(builder, config, traits, rules, partial(SparseDecoder, experts=experts))


def refuse_tied_embeddings(config: ModelConfig) -> None:
    if config.tie_word_embeddings:
        raise LayoutRefused(
            "A mixture of experts with tie_word_embeddings does not fit NxD Inference, at any tensor parallel degree. "
            "Use a checkpoint that has an lm_head of its own."
        )
