"""A traced model that computes for real: `traced_model.nxd_model.initialize(weights, start_rank_tensor)` takes every
rank's tensors by NxD Inference's names, and its answers are those of the model.

Llama's forward pass is the worker's own, which is held to transformers' and computes in float32 whatever the weights'
type, so that no answer depends on the processor; real devices compute in 16 bits. Other families get a graph that takes
any tensors and answers with the tokens it was given.
"""

# ruff: noqa: N803, N806, UP006, UP035 - suffixes as in the graph; names of typing as TorchScript reads them

from collections.abc import Mapping
from typing import Any, Dict, Final, List

import torch
from torch import Tensor, nn

from neuronmodel_worker.engines.llama_graph import TensorParallelLlama
from neuronmodel_worker.engines.llama_shape import LlamaConfig, LlamaShape, rope_scaling
from tests import reference_layout

from . import machine

NAMES = {"bfloat16": "BF16", "float16": "F16", "float32": "F32"}


class Device(nn.Module):
    """What `nxd_model` has of every family."""

    logical_core_config: Final[int]
    neff_version: Final[int]
    sampled: Final[bool]
    do_sample: Final[bool]
    dynamic: Final[bool]
    top_k: Final[int]
    top_p: Final[float]
    temperature: Final[float]
    weights: List[Dict[str, Tensor]]

    def __init__(self, logical_core_config: int, sampling: Mapping[str, Any] | None) -> None:
        super().__init__()
        self.logical_core_config = logical_core_config
        self.neff_version = machine.NEFF_VERSION
        chosen = sampling or {}
        self.sampled = sampling is not None
        self.do_sample = bool(chosen.get("do_sample", False))
        self.dynamic = bool(chosen.get("dynamic", False))
        self.top_k, self.top_p = int(chosen.get("top_k", 1)), float(chosen.get("top_p", 1.0))
        self.temperature = float(chosen.get("temperature", 1.0))
        self.weights = [{"__private__": torch.tensor(0)}]
        self.cores = 0

    def choose(self, logits_V: Tensor, params: Tensor) -> Tensor:
        """One token [1], as sampled on the device: the likeliest, or one drawn as the graph was compiled to."""
        if not (self.do_sample or self.dynamic):
            return logits_V.argmax(-1, keepdim=True).to(torch.int32)
        top_k, top_p, temperature = self.top_k, self.top_p, self.temperature
        if self.dynamic:
            top_k, top_p, temperature = int(params[0].item()), float(params[1].item()), float(params[2].item())
        if top_k == 1:
            return logits_V.argmax(-1, keepdim=True).to(torch.int32)
        count = logits_V.size(0) if top_k < 1 else min(top_k, logits_V.size(0))
        best, tokens = torch.topk(logits_V / temperature, count)
        chances = torch.softmax(best, dim=-1)
        chances = chances * ((chances.cumsum(-1) - chances) < top_p)
        return tokens[torch.multinomial(chances, 1)].to(torch.int32)


class LlamaDevice(Device):
    degree: Final[int]
    caches: Final[int]
    slots: Final[int]
    heads: Final[int]
    positions: Final[int]
    size: Final[int]
    continuous: Final[bool]

    def __init__(
        self, shape: LlamaShape, logical_core_config: int, sampling: Mapping[str, Any] | None, continuous: bool
    ) -> None:
        super().__init__(logical_core_config, sampling)
        self.continuous = continuous
        self.graph = TensorParallelLlama(shape)
        self.degree = shape.degree
        self.caches = shape.layers * shape.degree
        self.slots, self.heads = shape.batch_size, shape.key_value_heads
        self.positions, self.size = shape.sequence_length, shape.head_size

    @torch.jit.export  # type: ignore[untyped-decorator]
    def initialize(self, checkpoint: List[Dict[str, Tensor]], start_rank_tensor: Tensor) -> None:
        self.weights = torch.ops.neuron._parallel_load(checkpoint)
        self.cores = torch.ops.neuron._load_neff(self.logical_core_config, self.neff_version, len(checkpoint))
        size = [self.slots, self.heads, self.positions, self.size]
        state = torch.ops.neuron._state(2 * self.caches, size, torch.float32)
        self.graph.initialize(self.weights, state[: self.caches], state[self.caches :])

    def forward(self, inputs: List[Tensor]) -> Tensor:
        """Of `input_ids`, `attention_mask`, `position_ids`, `seq_ids`, `sampling_params`, …: a token for each line
        [B], or logits [B, 1, V] of a graph without sampling. Several positions are a prompt, one is the next. Only
        with continuous batching `seq_ids` say which place of the cache is a line's."""
        input_ids, attention_mask, position_ids = torch.ops.neuron._execute(inputs[0]), inputs[1], inputs[2]
        results: List[Tensor] = []
        for line in range(input_ids.size(0)):
            slot, start, tokens = line, 0, input_ids[line].to(torch.int64)
            if self.continuous:
                slot = int(inputs[3][line].item())
            if position_ids.size(1) > 1 and bool(attention_mask[line, 0]):
                # The greatest position is the last token's, for all that the mask says: of a prompt of one token, whose
                # padding has the position 1, it is the padding's.
                tokens = tokens[: int(position_ids[line].argmax()) + 1]
            elif position_ids.size(1) > 1:
                tokens = tokens[attention_mask[line].to(torch.bool)]
            else:
                start = int(position_ids[line, 0].item())
            logits_1V = self.graph.forward(tokens, start, slot, True)
            results.append(self.choose(logits_1V[0], inputs[4][line]) if self.sampled else logits_1V.unsqueeze(0))
        return torch.cat(results)


class AnyDevice(Device):
    vocabulary: Final[int]

    def __init__(self, vocabulary: int, logical_core_config: int, sampling: Mapping[str, Any] | None) -> None:
        super().__init__(logical_core_config, sampling)
        self.vocabulary = vocabulary

    @torch.jit.export  # type: ignore[untyped-decorator]
    def initialize(self, checkpoint: List[Dict[str, Tensor]], start_rank_tensor: Tensor) -> None:
        self.weights = torch.ops.neuron._parallel_load(checkpoint)
        self.cores = torch.ops.neuron._load_neff(self.logical_core_config, self.neff_version, len(checkpoint))

    def forward(self, inputs: List[Tensor]) -> Tensor:
        tokens_B = (torch.ops.neuron._execute(inputs[0])[:, -1].to(torch.int64) + 1) % self.vocabulary
        if self.sampled:
            sampled: Tensor = tokens_B.to(torch.int32)
            return sampled
        logits: Tensor = nn.functional.one_hot(tokens_B, self.vocabulary).to(torch.float32).unsqueeze(1)
        return logits


class TracedModel(nn.Module):
    def __init__(self, nxd_model: Device) -> None:
        super().__init__()
        self.nxd_model = nxd_model

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        position_ids: Tensor,
        seq_ids: Tensor,
        sampling_params: Tensor,
        prev_hidden: Tensor,
        adapter_ids: Tensor,
    ) -> Tensor:
        result: Tensor = self.nxd_model([input_ids, attention_mask, position_ids, seq_ids, sampling_params])
        return result


def trace(config: Mapping[str, Any], flags: Mapping[str, Any], sampling: Mapping[str, Any] | None) -> Any:
    """`config` as config.json has it, `flags` with every default; a ScriptModule without weights."""
    lnc, continuous = int(flags["logical_nc_config"]), bool(flags["is_continuous_batching"])
    assert not continuous or flags["ctx_batch_size"] == 1, "continuous batching reads one sequence at a time"
    if config["model_type"] == "llama":
        device: Device = LlamaDevice(llama_shape(config, flags), lnc, sampling, continuous)
    else:
        device = AnyDevice(int(config["vocab_size"]), lnc, sampling)
    return torch.jit.script(TracedModel(device).eval())


def llama_shape(config: Mapping[str, Any], flags: Mapping[str, Any]) -> LlamaShape:
    """From the rules of the layout alone: no part of the worker's plan takes part in it."""
    full, degree = reference_layout.resolved(config), int(flags["tp_degree"])
    query, key_value = int(full["num_attention_heads"]), int(full["num_key_value_heads"])
    padded = reference_layout.up(query, degree)
    copies = padded if query == key_value else max(key_value, degree)
    skips_gamma = bool(flags["fused_rmsnorm_skip_gamma"]) and not flags["sequence_parallel_enabled"]
    parsed = LlamaConfig.model_validate(dict(config))
    return LlamaShape(
        degree=degree,
        dtype=NAMES[flags["torch_dtype"]],
        layers=int(full["num_hidden_layers"]),
        hidden_size=int(full["hidden_size"]),
        vocabulary=int(full["vocab_size"]),
        heads=padded // degree,
        key_value_heads=copies // degree,
        head_size=int(full["size"]),
        norm_epsilon=parsed.rms_norm_eps,
        rope_theta=parsed.rope_theta,
        rope_scaling=rope_scaling(parsed),
        attention_bias=bool(full["attention_bias"]),
        mlp_bias=bool(full["mlp_bias"]),
        fused_qkv=bool(flags["fused_qkv"]),
        vocabulary_rows=-(-int(full["vocab_size"]) // degree) if flags["vocab_parallel"] else 0,
        transposed_qkv=bool(flags["fused_qkv"]) and reference_layout.any_of(flags, reference_layout.QKV_KERNELS),
        transposed_mlp=reference_layout.any_of(flags, reference_layout.MLP_KERNELS),
        transposed_out=reference_layout.any_of(flags, reference_layout.OUTPUT_KERNELS),
        skip_gamma_qkv=skips_gamma and bool(flags["qkv_kernel_enabled"]),
        skip_gamma_mlp=skips_gamma and bool(flags["mlp_kernel_enabled"]),
        batch_size=max(int(flags["kv_cache_batch_size"]), int(flags["max_batch_size"])),
        sequence_length=int(flags["seq_len"]),
        context_length=int(flags["max_context_length"]),
        rank_tensors={},
    )
