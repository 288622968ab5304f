"""Loads what NEURON_COMPILED_ARTIFACTS names, and compiles again for whatever it takes for missing artifacts."""

import hashlib
import json
import logging
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from neuron_standin.record import record
from neuronx_distributed_inference.models.config import OnDeviceSamplingConfig
from neuronx_distributed_inference.utils.constants import MODEL_TYPES
from neuronx_distributed_inference.utils.hf_adapter import load_pretrained_config
from vllm.config import CacheConfig, ModelConfig, ParallelConfig, SchedulerConfig

logger = logging.getLogger("vllm")


class NeuronCausalLM:
    model: Any
    neuron_config: Any

    def load_weights(self, model_name_or_path: str, architecture: str, **kwargs: Any) -> tuple[bool, Any]:
        neuronx_model_cls = _get_neuron_model_cls(architecture)
        neuron_config = neuronx_model_cls.get_neuron_config_cls()(**kwargs["neuron_config"])
        config = neuronx_model_cls.get_config_cls()(
            neuron_config, load_config=load_pretrained_config(model_name_or_path)
        )
        digest = hashlib.md5(config.to_json_string().encode()).hexdigest()
        compiled_model_path = self._get_compiled_model_path(model_name_or_path, digest)
        try:
            self.model = neuronx_model_cls(compiled_model_path)
            self.model.load(compiled_model_path)
        except (FileNotFoundError, ValueError) as error:
            logger.warning("Exception: %s", error)
            logger.warning("No artifacts that could be loaded are in %s: compiling again", compiled_model_path)
            record("recompile", error=str(error))
            self.model = neuronx_model_cls(model_name_or_path, config)
            if config.neuron_config.quantized:
                neuronx_model_cls.save_quantized_state_dict(model_name_or_path, config)
            self.model.compile(compiled_model_path)
            self.model.load(compiled_model_path)
            return False, compiled_model_path
        return True, compiled_model_path

    def _get_compiled_model_path(self, model_name_or_path: str, digest: str) -> Any:
        if artifacts := os.getenv("NEURON_COMPILED_ARTIFACTS"):
            return artifacts
        path = Path(model_name_or_path) / "neuron-compiled-artifacts" / digest
        path.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(path, ignore_errors=True)
        return path

    def forward(self, input_ids: Any, input_block_ids: Any, **inputs: Any) -> Any:
        """A token a line, or its logits where the graph does not sample."""
        output = self.model(input_ids, attention_mask=None, seq_ids=input_block_ids, block_table=None, **inputs)
        if self.model.config.neuron_config.on_device_sampling_config:
            return output.hidden_states
        return output.logits[:, -1, :]


def get_neuron_model(
    model_config: ModelConfig,
    cache_config: CacheConfig,
    parallel_config: ParallelConfig,
    scheduler_config: SchedulerConfig,
    additional_config: dict[str, Any],
) -> NeuronCausalLM:
    hf_config = json.loads((Path(model_config.model) / "config.json").read_bytes())
    override = additional_config.get("override_neuron_config") or {}
    if model_config.max_prompt_length is not None:
        given = override.pop("max_context_length", None)
        if given is not None and given != model_config.max_prompt_length:
            raise ValueError(f"max_context_length {given} conflicts with max_prompt_length")
        override["max_context_length"] = model_config.max_prompt_length
    neuron_config = {
        "tp_degree": parallel_config.tensor_parallel_size,
        "ctx_batch_size": 1,
        "batch_size": scheduler_config.max_num_seqs,
        "max_context_length": model_config.max_model_len,
        "seq_len": model_config.max_model_len,
        "enable_bucketing": True,
        "is_continuous_batching": scheduler_config.max_num_seqs > 1,
        "quantized": False,
        "torch_dtype": model_config.dtype if model_config.dtype != "auto" else "float32",
        "padding_side": "right",
        "on_device_sampling_config": OnDeviceSamplingConfig(dynamic=True, deterministic=False),
        "pa_block_size": cache_config.block_size,
        "is_block_kv_layout": cache_config.enable_prefix_caching,
        "is_prefix_caching": cache_config.enable_prefix_caching,
        **override,
    }
    record("neuron_config", given=override, blocks=cache_config.num_gpu_blocks_override)
    model = NeuronCausalLM()
    model.load_weights(
        model_name_or_path=model_config.model, architecture=hf_config["architectures"][0], neuron_config=neuron_config
    )
    model.neuron_config = model.model.config.neuron_config
    return model


def _get_neuron_model_cls(architecture: str) -> Any:
    model, _, task = architecture.partition("For")
    try:
        return MODEL_TYPES[model.lower()]["causal-lm" if task == "CausalLM" else task]
    except KeyError:
        raise ValueError(f"Model {architecture} is not supported on Neuron for now.") from None


def sampled(logits: torch.Tensor, temperature: float) -> int:
    """On the processor, for a graph that gives logits [V]."""
    if temperature == 0:
        return int(logits.argmax())
    return int(torch.multinomial(torch.softmax(logits / temperature, -1), 1))
