"""One compiled submodel: pads what it is given to its bucket, as graphs have fixed shapes."""

import os
from typing import Any

import torch
from neuron_standin.runtime import executing
from torch import Tensor

from ..modules.generation.sampling import prepare_sampling_params

CONTEXT_ENCODING_MODEL_TAG = "context_encoding_model"
TOKEN_GENERATION_MODEL_TAG = "token_generation_model"


class ModelWrapper(torch.nn.Module):
    def __init__(self, config: Any, model_cls: Any, tag: str = "", compiler_args: str | None = None) -> None:
        super().__init__()
        self.config = config
        self.neuron_config = config.neuron_config
        if getattr(config, "pad_token_id", None) is None:
            config.pad_token_id = 0
        self.model_cls = model_cls
        self.model: Any = None
        self.tag = tag
        self.compiler_workdir = os.path.join(os.environ.get("BASE_COMPILE_WORK_DIR", "/tmp/nxd_model/"), tag)
        self.compiler_args = compiler_args or self._compiler_args()
        self.bucket_config = None
        self.priority_model_idx = None

    def is_neuron(self) -> bool:
        return isinstance(self.model, torch.jit.ScriptModule)

    def _compiler_args(self) -> str:
        flags = self.neuron_config
        if self.tag == TOKEN_GENERATION_MODEL_TAG:
            flags.cc_pipeline_tiling_factor = 1
        level = "-O1" if self.tag == CONTEXT_ENCODING_MODEL_TAG else "-O2"
        lnc, factor = flags.logical_nc_config, flags.cc_pipeline_tiling_factor
        return f"--auto-cast=none --model-type=transformer --lnc={lnc} --cc-pipeline-tiling-factor={factor} {level}"

    def input_generator(self) -> list[tuple[Tensor, ...]]:
        """An example for each bucket."""
        return [self._example(bucket) for bucket in self.neuron_config.buckets]

    def _example(self, bucket: int) -> tuple[Tensor, ...]:
        lines = self.neuron_config.batch_size
        tokens = bucket if self.tag == CONTEXT_ENCODING_MODEL_TAG else 1
        positions = torch.arange(tokens, dtype=torch.int32) if tokens > 1 else torch.ones(1, dtype=torch.int32)
        return (
            torch.ones((lines, tokens), dtype=torch.int32),
            torch.ones((lines, bucket), dtype=torch.int32),
            positions.repeat(lines, 1),
            torch.arange(lines, dtype=torch.int32),
            prepare_sampling_params(lines),
            torch.zeros(lines, dtype=torch.int32),
            torch.zeros(lines, dtype=torch.int32),
        )

    def forward(self, *args: Tensor | None) -> Tensor:
        """As many lines at a time as the graph was compiled for. Raises RuntimeError before a model is loaded,
        ValueError for what no bucket holds."""
        if self.model is None:
            raise RuntimeError(f"forward of {self.tag} before its model is loaded")
        assert args[0] is not None
        size, lines = self.neuron_config.batch_size, args[0].shape[0]
        parts = [
            [each if each is None else each[start : start + size] for each in args] for start in range(0, lines, size)
        ]
        return torch.cat([self._forward(*part) for part in parts])

    def _forward(self, *args: Tensor | None) -> Tensor:
        input_ids, attention_mask, position_ids, seq_ids, sampling_params, *_ = args
        assert input_ids is not None and attention_mask is not None and position_ids is not None
        largest = self.neuron_config.buckets[-1]
        if attention_mask.shape[1] > largest:
            if not self.neuron_config.allow_input_truncation:
                raise ValueError(f"{attention_mask.shape[1]} tokens, and the largest bucket holds {largest}")
            attention_mask = attention_mask[:, :largest]
            input_ids, position_ids = input_ids[:, :largest], position_ids[:, :largest]
        if self.tag == CONTEXT_ENCODING_MODEL_TAG:
            missing = max(largest, 2) - input_ids.shape[1]
            pad = self.config.pad_token_id
            left = (missing, 0) if self.neuron_config.padding_side == "left" else (0, missing)
            input_ids = torch.nn.functional.pad(input_ids, left, value=pad)
            attention_mask = torch.nn.functional.pad(attention_mask, left, value=0)
            position_ids = torch.nn.functional.pad(position_ids, left, value=1)
        empty = torch.zeros(input_ids.shape[0], dtype=torch.int32)
        tensors = [t.to(torch.int32) for t in (input_ids, attention_mask, position_ids, seq_ids) if t is not None]
        with executing():
            result: Tensor = self.model(*tensors, sampling_params, empty, empty)
        return result
