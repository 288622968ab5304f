"""The decoder that Mixtral and Qwen3-MoE share: every layer's experts stacked into two tensors, and a router."""

from dataclasses import dataclass

from neuronmodel_worker.failures import LayoutRefused
from neuronmodel_worker.layouts.dense import Decoder, Traits, degrees_dividing, warn_of_dropped_biases
from neuronmodel_worker.layouts.draft import Draft, ModelConfig
from neuronmodel_worker.layouts.geometry import Part
from neuronmodel_worker.layouts.heads import place_heads


@dataclass(frozen=True, slots=True)
class Experts:
    """`size` is the intermediate size of one expert; `module` and `gate`, `up`, `down` are the checkpoint's names."""

    count: int
    size: int
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
        draft, experts, hidden = self.draft, self.experts, self.config.hidden_size
        router = draft.take(f"model.{layer}{experts.module}.gate.weight", (experts.count, hidden))
        draft.add(f"{layer}mlp.router.linear_router.weight", Part(router, self.whole(router.shape)), declared="F32")
        stacks = f"{layer}mlp.expert_mlps.mlp_op."
        gates_and_ups = [(self.wide(layer, i, experts.gate), self.wide(layer, i, experts.up)) for i in self.numbers]
        draft.add_stack(f"{stacks}gate_up_proj.weight", gates_and_ups, experts.declared)
        downs = [(self.narrow(layer, i, experts.down),) for i in self.numbers]
        draft.add_stack(f"{stacks}down_proj.weight", downs, experts.declared)
        if experts.know_rank:
            draft.rank_tensors.append(f"{layer}mlp.expert_mlps.spmd_rank.rank")

    @property
    def numbers(self) -> range:
        return range(self.experts.count)

    def wide(self, layer: str, expert: int, name: str) -> Part:
        """Gate or up: each rank has some of the rows."""
        shape = (self.experts.size, self.config.hidden_size)
        source = self.draft.take(f"model.{layer}{self.experts.module}.experts.{expert}.{name}.weight", shape)
        return Part(source, self.by_rows(shape))

    def narrow(self, layer: str, expert: int, name: str) -> Part:
        """Down: each rank has some of the columns."""
        shape = (self.config.hidden_size, self.experts.size)
        source = self.draft.take(f"model.{layer}{self.experts.module}.experts.{expert}.{name}.weight", shape)
        return Part(source, self.by_columns(shape))


def lay_out_moe(draft: Draft, config: ModelConfig, traits: Traits, experts: Experts) -> None:
    refuse_tied_embeddings(config)
    refuse_uneven_sizes(config, experts, draft.flags.tp_degree)
    warn_of_dropped_biases(draft, config, traits)
    heads = place_heads(config.num_attention_heads, config.key_value_heads, draft.flags.tp_degree)
    SparseDecoder(draft, config, traits, heads, experts).add_everything()


def refuse_tied_embeddings(config: ModelConfig) -> None:
    if config.tie_word_embeddings:
        raise LayoutRefused(
            "A mixture of experts with tie_word_embeddings does not fit NxD Inference, at any degree. Use a checkpoint "
            "that has an lm_head of its own."
        )


def refuse_uneven_sizes(config: ModelConfig, experts: Experts, degree: int) -> None:
    """Nothing is padded in a mixture of experts."""
    sizes = {"vocab_size": config.vocab_size, "hidden_size": config.hidden_size, "expert size": experts.size}
    uneven = [f"{name} {size}" for name, size in sizes.items() if size % degree]
    if uneven:
        raise LayoutRefused(
            f"{' and '.join(uneven)} cannot be divided by tensor parallel degree {degree}, and a mixture of experts is "
            f"not padded. {degrees_dividing(*sizes.values())}"
        )
