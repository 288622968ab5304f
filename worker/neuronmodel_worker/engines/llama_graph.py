"""The forward pass of a tensor-parallel Llama, all ranks in one process, as a graph that TorchScript can save.

The operations are transformers' for Llama, in their order, all in float32. Every rank computes with its own shard
alone; what a collective would carry between devices is a sum (all-reduce) or a concatenation (all-gather) here, so a
wrong shard gives a wrong answer. No weights are in the graph: `initialize` takes them, as NxD's compiled models do.

Shards stay in memory as they are, BF16 and F16 too, and each matrix is widened where it is used. To compute in 16 bits
would make answers depend on the processor, as each rounds partial sums in its own places (decision 26).

Suffixes: T tokens, S positions of the cache, V vocabulary, H hidden size, N heads of a rank, K key/value heads of a
rank, D head size. Lists that have an entry for each layer and rank are flat: layer * degree + rank.
"""

# ruff: noqa: N803, N806 - the suffixes

from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from neuronmodel_worker.engines.llama_shape import LlamaShape
from neuronmodel_worker.engines.rotary import rotary_frequencies

WIDENED: Final[int] = 1 << 17
"""Elements of a matrix that are in float32 at the same time: 512 KiB, which stay in a processor's cache until they are
used and which malloc keeps. Of 1 MiB and more it returns them to the system each time: lm_head took thrice as long."""


class TensorParallelLlama(nn.Module):
    degree: Final[int]
    layers: Final[int]
    hidden_size: Final[int]
    vocabulary: Final[int]
    heads: Final[int]
    key_value_heads: Final[int]
    head_size: Final[int]
    norm_epsilon: Final[float]
    attention_bias: Final[bool]
    mlp_bias: Final[bool]
    fused_qkv: Final[bool]
    vocabulary_rows: Final[int]
    transposed_qkv: Final[bool]
    transposed_mlp: Final[bool]
    transposed_out: Final[bool]
    skip_gamma_qkv: Final[bool]
    skip_gamma_mlp: Final[bool]
    widened: Final[int]

    embeddings: list[Tensor]
    embedding_offsets: list[int]
    heads_of_vocabulary: list[Tensor]
    final_norms: list[Tensor]
    attention_norms: list[Tensor]
    mlp_norms: list[Tensor]
    queries: list[Tensor]
    keys: list[Tensor]
    values: list[Tensor]
    outputs: list[Tensor]
    gates: list[Tensor]
    ups: list[Tensor]
    downs: list[Tensor]
    query_biases: list[Tensor]
    key_biases: list[Tensor]
    value_biases: list[Tensor]
    output_biases: list[Tensor]
    gate_biases: list[Tensor]
    up_biases: list[Tensor]
    down_biases: list[Tensor]
    cached_keys: list[Tensor]
    cached_values: list[Tensor]

    frequencies: Tensor

    def __init__(self, shape: LlamaShape) -> None:
        super().__init__()
        self.degree, self.layers = shape.degree, shape.layers
        self.hidden_size, self.vocabulary = shape.hidden_size, shape.vocabulary
        self.heads, self.key_value_heads, self.head_size = shape.heads, shape.key_value_heads, shape.head_size
        self.norm_epsilon = shape.norm_epsilon
        self.attention_bias, self.mlp_bias = shape.attention_bias, shape.mlp_bias
        self.fused_qkv, self.vocabulary_rows = shape.fused_qkv, shape.vocabulary_rows
        self.transposed_qkv = shape.transposed_qkv
        self.transposed_mlp, self.transposed_out = shape.transposed_mlp, shape.transposed_out
        self.skip_gamma_qkv, self.skip_gamma_mlp = shape.skip_gamma_qkv, shape.skip_gamma_mlp
        self.widened = WIDENED
        frequencies = rotary_frequencies(shape.rope_theta, shape.rope_scaling, shape.head_size)
        self.register_buffer("frequencies", frequencies)
        self._clear()

    def _clear(self) -> None:
        self.embeddings, self.heads_of_vocabulary, self.final_norms = [], [], []
        self.embedding_offsets = []
        self.attention_norms, self.mlp_norms = [], []
        self.queries, self.keys, self.values, self.outputs = [], [], [], []
        self.gates, self.ups, self.downs = [], [], []
        self.query_biases, self.key_biases, self.value_biases, self.output_biases = [], [], [], []
        self.gate_biases, self.up_biases, self.down_biases = [], [], []
        self.cached_keys, self.cached_values = [], []

    @torch.jit.export  # type: ignore[untyped-decorator]
    def initialize(
        self, weights: list[dict[str, Tensor]], cached_keys: list[Tensor], cached_values: list[Tensor]
    ) -> None:
        """Take every rank's tensors, by NxD Inference's names, and caches [slots, K, S, D] for each layer and rank.

        The cache is made outside: TorchScript holds two `torch.zeros` of one shape for the same value and would make
        keys and values share their memory.
        """
        self.cached_keys, self.cached_values = cached_keys, cached_values
        for rank in weights:
            self.embeddings.append(rank["embed_tokens.weight"])
            if self.vocabulary_rows > 0:
                self.embedding_offsets.append(int(rank["embed_tokens.rank_util.rank"].item()) * self.vocabulary_rows)
            self.heads_of_vocabulary.append(rank["lm_head.weight"])
            self.final_norms.append(rank["norm.weight"].float())
        for layer in range(self.layers):
            for rank in weights:
                self._take_attention(rank, f"layers.{layer}.")
                self._take_mlp(rank, f"layers.{layer}.")

    def _take_attention(self, rank: dict[str, Tensor], layer: str) -> None:
        self.attention_norms.append(rank[layer + "input_layernorm.weight"].float())
        prefix = layer + "self_attn.qkv_proj."
        if self.fused_qkv:
            fused = rank[prefix + "Wqkv.weight"]
            if self.transposed_qkv:
                fused = fused.t()
            query, each = self.heads * self.head_size, self.key_value_heads * self.head_size
            self.queries.append(fused[:query])
            self.keys.append(fused[query : query + each])
            self.values.append(fused[query + each :])
        else:
            self.queries.append(rank[prefix + "q_proj.weight"])
            self.keys.append(rank[prefix + "k_proj.weight"])
            self.values.append(rank[prefix + "v_proj.weight"])
        output = rank[layer + "self_attn.o_proj.o_proj.weight"]
        self.outputs.append(output.t() if self.transposed_out else output)
        if self.attention_bias:
            self.query_biases.append(rank[prefix + "q_proj.bias"].float())
            self.key_biases.append(rank[prefix + "k_proj.bias"].float())
            self.value_biases.append(rank[prefix + "v_proj.bias"].float())
            self.output_biases.append(rank[layer + "self_attn.o_proj.o_proj.bias"].float())

    def _take_mlp(self, rank: dict[str, Tensor], layer: str) -> None:
        norm = rank[layer + "post_attention_layernorm.weight"].float()
        if self.skip_gamma_mlp:
            # NxD Inference multiplies the weight of the *input* norm into gate and up; this undoes it exactly once.
            norm = norm / rank[layer + "input_layernorm.weight"].float()
        self.mlp_norms.append(norm)
        gate, up, down = (
            rank[layer + "mlp.gate_proj.weight"],
            rank[layer + "mlp.up_proj.weight"],
            rank[layer + "mlp.down_proj.weight"],
        )
        self.gates.append(gate.t() if self.transposed_mlp else gate)
        self.ups.append(up.t() if self.transposed_mlp else up)
        self.downs.append(down.t() if self.transposed_mlp else down)
        if self.mlp_bias:
            self.gate_biases.append(rank[layer + "mlp.gate_proj.bias"].float())
            self.up_biases.append(rank[layer + "mlp.up_proj.bias"].float())
            self.down_biases.append(rank[layer + "mlp.down_proj.bias"].float())

    def forward(self, tokens_T: Tensor, start: int, slot: int, last_only: bool) -> Tensor:
        """Logits [T, V] in float32, of the last token alone with `last_only` [1, V]. The tokens stand at `start` of the
        sequence in `slot`, whose earlier positions have to be in its cache."""
        hidden_TH = self._embed(tokens_T)
        positions_T = torch.arange(start, start + tokens_T.size(0))
        angles_TD = positions_T.float().unsqueeze(1) * self.frequencies.unsqueeze(0)
        angles_TD = torch.cat([angles_TD, angles_TD], dim=-1)
        cos_TD, sin_TD = angles_TD.cos(), angles_TD.sin()
        mask_TS = self._mask(positions_T)
        for layer in range(self.layers):
            hidden_TH = hidden_TH + self._attention(layer, hidden_TH, cos_TD, sin_TD, mask_TS, start, slot)
            hidden_TH = hidden_TH + self._mlp(layer, hidden_TH)
        return self._logits(hidden_TH[-1:] if last_only else hidden_TH)

    def _mask(self, positions_T: Tensor) -> Tensor | None:
        """Which earlier positions [T, S] a token sees; None where that is all of them, or a triangle."""
        if positions_T.size(0) == 1 or int(positions_T[0]) == 0:
            return None
        return torch.arange(int(positions_T[-1]) + 1).unsqueeze(0) <= positions_T.unsqueeze(1)

    def _embed(self, tokens_T: Tensor) -> Tensor:
        if self.vocabulary_rows > 0:
            # Each rank knows some of the tokens and is zero for the rest; the sum is the all-reduce.
            total_TH = torch.zeros([tokens_T.size(0), self.hidden_size])
            for rank in range(self.degree):
                local_T = tokens_T - self.embedding_offsets[rank]
                mine_T = (local_T >= 0) & (local_T < self.vocabulary_rows)
                rows_TH = F.embedding(local_T.clamp(0, self.vocabulary_rows - 1), self.embeddings[rank]).float()
                total_TH = total_TH + rows_TH * mine_T.unsqueeze(1)
            return total_TH
        parts = [F.embedding(tokens_T, self.embeddings[rank]).float() for rank in range(self.degree)]
        return torch.cat(parts, dim=-1)[:, : self.hidden_size]

    def _normalize(self, hidden_TH: Tensor) -> Tensor:
        return hidden_TH * torch.rsqrt(hidden_TH.pow(2).mean(-1, keepdim=True) + self.norm_epsilon)

    def _linear(self, x_TI: Tensor, weight_OI: Tensor) -> Tensor:
        """F.linear in float32 [T, O] with a weight of any type, of which a few rows are widened at a time."""
        if weight_OI.dtype == torch.float32 or weight_OI.numel() <= self.widened:
            return F.linear(x_TI, weight_OI.float())
        num_rows = max(1, self.widened // weight_OI.size(1))
        return torch.cat([F.linear(x_TI, rows_OI.float()) for rows_OI in torch.split(weight_OI, num_rows)], dim=-1)

    def _rotate(self, x_NTD: Tensor, cos_TD: Tensor, sin_TD: Tensor) -> Tensor:
        half = self.head_size // 2
        turned_NTD = torch.cat([-x_NTD[:, :, half:], x_NTD[:, :, :half]], dim=-1)
        return x_NTD * cos_TD + turned_NTD * sin_TD

    def _attention(
        self,
        layer: int,
        hidden_TH: Tensor,
        cos_TD: Tensor,
        sin_TD: Tensor,
        mask_TS: Tensor | None,
        start: int,
        slot: int,
    ) -> Tensor:
        normal_TH = self._normalize(hidden_TH)
        total_TH = torch.zeros_like(hidden_TH)
        for rank in range(self.degree):
            index = layer * self.degree + rank
            mine_TH = normal_TH
            if not self.skip_gamma_qkv:
                mine_TH = self.attention_norms[index] * normal_TH
            total_TH = total_TH + self._rank_attention(index, mine_TH, cos_TD, sin_TD, mask_TS, start, slot)
        if self.attention_bias:
            total_TH = total_TH + self.output_biases[layer * self.degree]
        return total_TH

    def _rank_attention(
        self, index: int, x_TH: Tensor, cos_TD: Tensor, sin_TD: Tensor, mask_TS: Tensor | None, start: int, slot: int
    ) -> Tensor:
        query, key, value = (
            self._linear(x_TH, self.queries[index]),
            self._linear(x_TH, self.keys[index]),
            self._linear(x_TH, self.values[index]),
        )
        if self.attention_bias:
            query = query + self.query_biases[index]
            key = key + self.key_biases[index]
            value = value + self.value_biases[index]
        num_tokens = x_TH.size(0)
        stop = start + num_tokens
        query_NTD = query.view(num_tokens, self.heads, self.head_size).transpose(0, 1)
        key_KTD = key.view(num_tokens, self.key_value_heads, self.head_size).transpose(0, 1)
        value_KTD = value.view(num_tokens, self.key_value_heads, self.head_size).transpose(0, 1)
        cached_keys, cached_values = self.cached_keys[index][slot], self.cached_values[index][slot]
        cached_keys[:, start:stop] = self._rotate(key_KTD, cos_TD, sin_TD)
        cached_values[:, start:stop] = value_KTD
        attended_NTD = F.scaled_dot_product_attention(
            self._rotate(query_NTD, cos_TD, sin_TD).unsqueeze(0),
            cached_keys[:, :stop].unsqueeze(0),
            cached_values[:, :stop].unsqueeze(0),
            mask_TS,
            is_causal=mask_TS is None and num_tokens > 1,
            scale=self.head_size**-0.5,
            enable_gqa=True,
        ).squeeze(0)
        return self._linear(attended_NTD.transpose(0, 1).reshape(num_tokens, -1), self.outputs[index])

    def _mlp(self, layer: int, hidden_TH: Tensor) -> Tensor:
        normal_TH = self._normalize(hidden_TH)
        total_TH = torch.zeros_like(hidden_TH)
        for rank in range(self.degree):
            index = layer * self.degree + rank
            mine_TH = self.mlp_norms[index] * normal_TH
            gate, up = self._linear(mine_TH, self.gates[index]), self._linear(mine_TH, self.ups[index])
            if self.mlp_bias:
                gate, up = gate + self.gate_biases[index], up + self.up_biases[index]
            total_TH = total_TH + self._linear(F.silu(gate) * up, self.downs[index])
        if self.mlp_bias:
            total_TH = total_TH + self.down_biases[layer * self.degree]
        return total_TH

    def _logits(self, hidden_TH: Tensor) -> Tensor:
        normal_TH = self._normalize(hidden_TH)
        parts: list[Tensor] = []
        for rank in range(self.degree):
            parts.append(self._linear(self.final_norms[rank] * normal_TH, self.heads_of_vocabulary[rank]))
        return torch.cat(parts, dim=-1)[:, : self.vocabulary]


def empty_cache(shape: LlamaShape) -> list[Tensor]:
    """Keys or values of every layer and rank."""
    size = (shape.batch_size, shape.key_value_heads, shape.sequence_length, shape.head_size)
    return [torch.zeros(size) for _ in range(shape.layers * shape.degree)]


def build_graph(shape: LlamaShape) -> torch.jit.ScriptModule:
    graph: torch.jit.ScriptModule = torch.jit.script(TensorParallelLlama(shape).eval())
    return graph
