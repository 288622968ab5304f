"""The decoder that Llama, Mistral, Qwen2 and Qwen3 share; `Traits` has the differences between families."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from neuronmodel_worker.checkpoint import TensorSource
from neuronmodel_worker.failures import LayoutRefused
from neuronmodel_worker.layouts import geometry
from neuronmodel_worker.layouts.builder import LayoutBuilder
from neuronmodel_worker.layouts.geometry import Shape, SourcePart, Split
from neuronmodel_worker.layouts.heads import CacheShape, Head, HeadPlan, heads_rule, place_heads
from neuronmodel_worker.layouts.model_config import ModelConfig
from neuronmodel_worker.layouts.sharding_flags import Flags
from neuronmodel_worker.layouts.tp_degrees import DegreeRule, divides, require_degree
from neuronmodel_worker.layouts.unused_tensors import warn_of_unused

# `geometry.by_head_rows` or `geometry.by_head_columns`.
HeadSplit = Callable[[Shape, tuple[Head, ...], int, int, range], Split]


@dataclass(frozen=True, slots=True)
class Traits:
    """What a family's layout depends on in addition to the model's configuration."""

    head_size: int
    query_key_value_bias: bool = False
    output_bias: bool = False
    query_key_norms: bool = False
    lm_head_declared: str | None = None
    attention_knows_rank: bool = True


@dataclass(frozen=True)
class Decoder:
    """One model's tensors, added to the builder from the embeddings to the head."""

    builder: LayoutBuilder
    config: ModelConfig
    traits: Traits
    heads: HeadPlan

    def add_all(self) -> None:
        self.add_embeddings_and_head()
        for layer in range(self.config.num_hidden_layers):
            self.add_attention(f"layers.{layer}.")
            self.add_mlp(f"layers.{layer}.")
            self.add_norms(f"layers.{layer}.")
            if self.traits.attention_knows_rank:
                self.builder.rank_tensors.append(f"layers.{layer}.self_attn.rank_util.rank")
        self.builder.rank_tensors.append("rank_util.rank")

    # How a matrix is split, with this model's degree and ranks.

    def by_rows(self, shape: Shape) -> Split:
        return geometry.by_rows(shape, self.builder.flags.tp_degree, self.builder.flags.ranks)

    def by_columns(self, shape: Shape) -> Split:
        return geometry.by_columns(shape, self.builder.flags.tp_degree, self.builder.flags.ranks)

    def whole(self, shape: Shape) -> Split:
        return geometry.whole(shape, self.builder.flags.ranks)

    # The tensors.

    def add_embeddings_and_head(self) -> None:
        builder, config, vocabulary = self.builder, self.config, (self.config.vocab_size, self.config.hidden_size)
        embeddings = builder.take("model.embed_tokens.weight", vocabulary)
        split = self.by_rows(vocabulary) if builder.flags.vocab_parallel else self.by_columns(vocabulary)
        builder.add("embed_tokens.weight", SourcePart(embeddings, split))
        if builder.flags.vocab_parallel:
            builder.rank_tensors.append("embed_tokens.rank_util.rank")
        head = embeddings if config.tie_word_embeddings else builder.take("lm_head.weight", vocabulary)
        builder.add("lm_head.weight", SourcePart(head, self.by_rows(vocabulary)), declared=self.traits.lm_head_declared)
        self.add_norm("norm.weight", "model.norm.weight", config.hidden_size)

    def add_norm(self, name: str, source: str, size: int) -> None:
        self.builder.add(name, SourcePart(self.builder.take(source, (size,)), self.whole((size,))), declared="F32")

    def add_norms(self, layer: str) -> None:
        for norm in ("input_layernorm.weight", "post_attention_layernorm.weight"):
            self.add_norm(layer + norm, f"model.{layer}{norm}", self.config.hidden_size)
        if self.traits.query_key_norms:
            for which in "qk":
                name, source = f"{layer}self_attn.{which}_layernorm.weight", f"{layer}self_attn.{which}_norm.weight"
                self.add_norm(name, f"model.{source}", self.traits.head_size)

    def add_attention(self, layer: str) -> None:
        builder, flags, attention = self.builder, self.builder.flags, f"model.{layer}self_attn."
        factor = self.gamma(layer) if flags.skip_gamma_qkv else None
        self.add_query_key_value(layer, "weight", factor)
        if self.traits.query_key_value_bias:
            self.add_query_key_value(layer, "bias", None)
        shape = (self.config.hidden_size, self.config.num_attention_heads * self.traits.head_size)
        split = self.by_heads(geometry.by_head_columns, shape, self.heads.query)
        output = f"{layer}self_attn.o_proj.o_proj."
        weight = SourcePart(builder.take(f"{attention}o_proj.weight", shape), split)
        builder.add(f"{output}weight", weight, transposed=flags.transposed_out)
        if self.traits.output_bias:
            size = (self.config.hidden_size,)
            builder.add(f"{output}bias", SourcePart(builder.take(f"{attention}o_proj.bias", size), self.whole(size)))

    def add_query_key_value(self, layer: str, kind: str, factor: TensorSource | None) -> None:
        builder, flags = self.builder, self.builder.flags
        parts = {which: self.projection(layer, which, kind, factor) for which in "qkv"}
        prefix = f"{layer}self_attn.qkv_proj."
        if flags.fused_qkv:
            transposed = flags.transposed_fused_qkv and kind == "weight"
            builder.add(f"{prefix}Wqkv.{kind}", *parts.values(), transposed=transposed)
        else:
            for which, part in parts.items():
                builder.add(f"{prefix}{which}_proj.{kind}", part)

    def projection(self, layer: str, which: str, kind: str, factor: TensorSource | None) -> SourcePart:
        config, query = self.config, which == "q"
        rows = (config.num_attention_heads if query else config.key_value_heads) * self.traits.head_size
        shape = (rows, config.hidden_size) if kind == "weight" else (rows,)
        places = self.heads.query if query else self.heads.key_value
        source = self.builder.take(f"model.{layer}self_attn.{which}_proj.{kind}", shape)
        return SourcePart(source, self.by_heads(geometry.by_head_rows, shape, places), factor)

    def by_heads(self, split: HeadSplit, shape: Shape, places: tuple[Head, ...]) -> Split:
        return split(shape, places, self.traits.head_size, self.builder.flags.tp_degree, self.builder.flags.ranks)

    def add_mlp(self, layer: str) -> None:
        builder, flags, config = self.builder, self.builder.flags, self.config
        wide, narrow = (config.intermediate_size, config.hidden_size), (config.hidden_size, config.intermediate_size)
        factor = self.gamma(layer) if flags.skip_gamma_mlp else None
        add = partial(builder.add, transposed=flags.transposed_mlp)
        for which in ("gate", "up"):
            name = f"{layer}mlp.{which}_proj.weight"
            add(name, SourcePart(builder.take(f"model.{name}", wide), self.by_rows(wide), factor))
        name = f"{layer}mlp.down_proj.weight"
        add(name, SourcePart(builder.take(f"model.{name}", narrow), self.by_columns(narrow)))
        if config.mlp_bias:
            self.add_mlp_biases(layer)

    def add_mlp_biases(self, layer: str) -> None:
        size, hidden = (self.config.intermediate_size,), (self.config.hidden_size,)
        splits = {"gate": self.by_rows(size), "up": self.by_rows(size), "down": self.whole(hidden)}
        for which, split in splits.items():
            name = f"{layer}mlp.{which}_proj.bias"
            source = self.builder.take(f"model.{name}", hidden if which == "down" else size)
            self.builder.add(name, SourcePart(source, split))

    def gamma(self, layer: str) -> TensorSource:
        return self.builder.take(f"model.{layer}input_layernorm.weight", (self.config.hidden_size,))


def lay_out_dense(builder: LayoutBuilder, config: ModelConfig, traits: Traits) -> None:
    rules = [heads_rule(config.num_attention_heads, config.key_value_heads)]
    if config.mlp_bias:
        sizes = {"intermediate_size": config.intermediate_size}
        rules.append(divides(sizes, "the biases of a model with mlp_bias are not padded"))
    lay_out_decoder(builder, config, traits, rules, Decoder)


def lay_out_decoder(
    builder: LayoutBuilder,
    config: ModelConfig,
    traits: Traits,
    rules: Sequence[DegreeRule],
    decoder: Callable[[LayoutBuilder, ModelConfig, Traits, HeadPlan], Decoder],
) -> None:
    """Add a model's tensors to the builder. `rules` are the conditions for the degree, including those of the heads."""
    require_degree(builder.flags.tp_degree, rules)
    refuse_empty_heads(config, traits)
    # Before places are made for heads: a config.json with a billion of them must not fill the memory.
    rows = config.num_attention_heads * traits.head_size
    builder.take("model.layers.0.self_attn.q_proj.weight", (rows, config.hidden_size))
    heads = place_heads(config.num_attention_heads, config.key_value_heads, builder.flags.tp_degree)
    of_rank = len(heads.key_value) // builder.flags.tp_degree
    builder.cache = CacheShape(config.num_hidden_layers, of_rank, traits.head_size)
    decoder(builder, config, traits, heads).add_all()
    warn_of_unused(builder, config)


def refuse_empty_heads(config: ModelConfig, traits: Traits) -> None:
    if not traits.head_size:
        raise LayoutRefused(
            f"config.json gives num_attention_heads {config.num_attention_heads} and hidden_size {config.hidden_size}: "
            "that leaves nothing for a head. Put the checkpoint's own config.json there."
        )


def refuse_other_head_size(builder: LayoutBuilder, config: ModelConfig) -> None:
    """Raises LayoutRefused where `head_dim` matters, for families whose attention divides the hidden size by the
    heads."""
    rows = config.num_attention_heads * config.divided_head_size
    query = builder.find("model.layers.0.self_attn.q_proj.weight")
    if query and query.shape[:1] != (rows,) and query.shape[1:] == (config.hidden_size,):
        raise LayoutRefused(
            f"The query projection of {builder.checkpoint.path} has {query.shape[0]} rows, and NxD Inference makes "
            f"{config.num_attention_heads} heads of {config.divided_head_size} for this family (hidden_size "
            f"{config.hidden_size} // num_attention_heads {config.num_attention_heads}), which is {rows} rows: heads "
            "of another size do not fit at any degree. Use a model whose heads divide its hidden size."
        )


def refuse_fused_qkv(flags: Flags, family: str) -> None:
    if flags.fused_qkv:
        raise LayoutRefused(
            f"fused_qkv does not go with a {family} model in NxD Inference, at any tensor parallel degree. Set "
            "fused_qkv to false."
        )
