"""The loop that users have today, reimplemented: load everything, convert, then one rank after the other, one tensor
after the other, split and save. One process and one thread of Python; reading, computing and writing take turns.

PyTorch is left as it comes: what it does in several threads by itself, it does here.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.functional import pad

from hack.bench.contenders.task import Task, Timed

State = dict[str, Tensor]
Split = Callable[[Tensor, int], Tensor]
"""A whole tensor and a rank → the rank's part."""


def prepare(task: Task) -> Timed:
    config = json.loads((task.source / "config.json").read_text())

    def loop() -> None:
        model = Model(config, task.neuron_config, load(task.source))
        task.output.mkdir()
        for rank in range(model.degree):
            save_file(model.shard(rank), task.output / f"tp{rank}_sharded_checkpoint.safetensors")

    return loop


def load(source: Path) -> State:
    state: State = {}
    for file in sorted(source.glob("*.safetensors")):
        state |= load_file(file)
    return {name.removeprefix("model."): tensor for name, tensor in state.items()}


@dataclass(frozen=True)
class Heads:
    """Head counts of the checkpoint; where the degree is a multiple of the key/value heads, these are repeated."""

    query: int
    key_value: int
    degree: int

    def pad_queries(self, rows: Tensor) -> Tensor:
        """Zero heads after each group, `rows` being queries' heads on dimension 0."""
        missing = -self.query % self.degree
        if not missing:
            return rows
        groups = rows.reshape(self.key_value, -1, rows.shape[1])
        size = groups.shape[1] * self.key_value // self.query
        return pad(groups, (0, 0, 0, missing // self.key_value * size)).reshape(-1, rows.shape[1])

    def repeat_keys(self, rows: Tensor) -> Tensor:
        if self.degree <= self.key_value:
            return rows
        heads = rows.view(self.key_value, -1, rows.shape[1])
        return heads.repeat_interleave(self.degree // self.key_value, dim=0).reshape(-1, rows.shape[1])


class Model:
    """One state dict for all ranks, and how each of its tensors is split."""

    def __init__(self, config: Mapping[str, Any], neuron_config: Mapping[str, Any], state: State) -> None:
        self.degree: int = neuron_config["tp_degree"]
        self.heads = Heads(config["num_attention_heads"], config["num_key_value_heads"], self.degree)
        self.fused = bool(neuron_config.get("fused_qkv"))
        self.qkv_kernel = bool(neuron_config.get("qkv_kernel_enabled"))
        self.mlp_kernel = bool(neuron_config.get("mlp_kernel_enabled"))
        self.num_experts = config.get("num_local_experts", 0)
        self.knows_rank = ["rank_util.rank"]
        self.state: dict[str, tuple[Tensor, Split]] = {
            "embed_tokens.weight": (state["embed_tokens.weight"], self.columns),
            "lm_head.weight": (state["lm_head.weight"], self.rows),
            "norm.weight": (state["norm.weight"], self.replicated),
        }
        for layer in range(config["num_hidden_layers"]):
            self._convert_layer(f"layers.{layer}.", state)

    def shard(self, rank: int) -> State:
        shard = {name: split(tensor, rank).contiguous() for name, (tensor, split) in self.state.items()}
        return shard | {name: torch.tensor([rank], dtype=torch.int32) for name in self.knows_rank}

    # Splits.

    def replicated(self, tensor: Tensor, rank: int) -> Tensor:
        return tensor

    def rows(self, tensor: Tensor, rank: int) -> Tensor:
        return torch.chunk(tensor, self.degree, dim=0)[rank]

    def columns(self, tensor: Tensor, rank: int) -> Tensor:
        return torch.chunk(tensor, self.degree, dim=1)[rank]

    def fused_rows(self, tensor: Tensor, rank: int) -> Tensor:
        """Queries, keys and values lie one after the other; a rank has its part of each."""
        key_value = tensor.shape[0] * self._key_value_heads // (self._query_heads + 2 * self._key_value_heads)
        parts = torch.split(tensor, [tensor.shape[0] - 2 * key_value, key_value, key_value])
        part = torch.cat([self.rows(each, rank) for each in parts])
        return part.T if self.qkv_kernel else part

    def transposed(self, split: Split) -> Split:
        return lambda tensor, rank: split(tensor, rank).T

    def gate_up(self, tensor: Tensor, rank: int) -> Tensor:
        return torch.cat([torch.chunk(half, self.degree, dim=2)[rank] for half in tensor.chunk(2, dim=2)], dim=2)

    # Conversion.

    @property
    def _query_heads(self) -> int:
        return self.heads.query + -self.heads.query % self.degree

    @property
    def _key_value_heads(self) -> int:
        return max(self.heads.key_value, self.degree)

    def _convert_layer(self, layer: str, state: State) -> None:
        for norm in ("input_layernorm.weight", "post_attention_layernorm.weight"):
            self.state[layer + norm] = (state[layer + norm], self.replicated)
        self._convert_attention(f"{layer}self_attn.", state)
        if self.num_experts:
            self._convert_experts(layer, state)
        else:
            self._convert_mlp(f"{layer}mlp.", state)
            self.knows_rank.append(f"{layer}self_attn.rank_util.rank")

    def _convert_attention(self, module: str, state: State) -> None:
        query = self.heads.pad_queries(state[f"{module}q_proj.weight"])
        key, value = (self.heads.repeat_keys(state[f"{module}{name}_proj.weight"]) for name in "kv")
        if self.fused:
            self.state[f"{module}qkv_proj.Wqkv.weight"] = (torch.cat([query, key, value]), self.fused_rows)
        else:
            for name, tensor in zip("qkv", (query, key, value), strict=True):
                self.state[f"{module}qkv_proj.{name}_proj.weight"] = (tensor, self.rows)
        output = self.heads.pad_queries(state[f"{module}o_proj.weight"].T).T
        self.state[f"{module}o_proj.o_proj.weight"] = (output, self.columns)

    def _convert_mlp(self, module: str, state: State) -> None:
        splits: dict[str, Split] = {"gate": self.rows, "up": self.rows, "down": self.columns}
        for name, split in splits.items():
            kept = self.transposed(split) if self.mlp_kernel else split
            self.state[f"{module}{name}_proj.weight"] = (state[f"{module}{name}_proj.weight"], kept)

    def _convert_experts(self, layer: str, state: State) -> None:
        """Every expert's matrices transposed and stacked: gate and up side by side, and down."""
        module = f"{layer}block_sparse_moe."
        router = state[f"{module}gate.weight"]
        size, hidden = state[f"{module}experts.0.w1.weight"].shape
        gate_up = torch.empty(self.num_experts, hidden, 2 * size, dtype=router.dtype)
        down = torch.empty(self.num_experts, size, hidden, dtype=router.dtype)
        for number in range(self.num_experts):
            expert = f"{module}experts.{number}."
            gate_up[number, :, :size].copy_(state.pop(f"{expert}w1.weight").T)
            gate_up[number, :, size:].copy_(state.pop(f"{expert}w3.weight").T)
            down[number].copy_(state.pop(f"{expert}w2.weight").T)
        self.state[f"{layer}mlp.router.linear_router.weight"] = (router, self.replicated)
        self.state[f"{layer}mlp.expert_mlps.mlp_op.gate_up_proj.weight"] = (gate_up, self.gate_up)
        self.state[f"{layer}mlp.expert_mlps.mlp_op.down_proj.weight"] = (down, self.columns)
