"""`load_pretrained_config`, and the adapter that makes of an application what transformers can generate with."""

import copy
import os
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from neuron_standin.record import record
from transformers import AutoConfig, GenerationConfig, GenerationMixin, PretrainedConfig, PreTrainedModel
from transformers.generation import GenerateDecoderOnlyOutput

from ..models.application_base import NeuronApplicationBase
from ..models.config import InferenceConfig, NeuronConfig, OnDeviceSamplingConfig, to_dict, to_torch_dtype
from ..modules.generation.sampling import Sampler, prepare_sampling_params


def load_pretrained_config(
    model_path_or_name: str | os.PathLike[str] | None = None, hf_config: PretrainedConfig | None = None
) -> Callable[[InferenceConfig], None]:
    def load_config(self: InferenceConfig) -> None:
        if (model_path_or_name is None) == (hf_config is None):
            raise ValueError("one of model_path_or_name and hf_config")
        config: Any = hf_config if model_path_or_name is None else AutoConfig.from_pretrained(model_path_or_name)
        found = config.to_dict()
        if config.transformers_version is not None:
            found["transformers_version"] = config.transformers_version
        dtype = found.pop("dtype", None) or found.pop("torch_dtype", None)
        found.pop("torch_dtype", None)
        if dtype is not None and not self.neuron_config.overrides_torch_dtype:
            self.neuron_config.torch_dtype = to_torch_dtype(dtype) if isinstance(dtype, str) else dtype
        for key, value in found.items():
            if isinstance(getattr(config, key), PretrainedConfig):
                found[key] = SimpleNamespace(**value)
        self.__dict__.update(found)
        if hasattr(config, "attribute_map"):
            self.__dict__["attribute_map"] = config.attribute_map

    return load_config


def to_pretrained_config(config: InferenceConfig) -> PretrainedConfig:
    found = copy.deepcopy(to_dict(config))
    found["dtype"] = config.neuron_config.torch_dtype
    del found["neuron_config"]
    return PretrainedConfig(**found)


class HuggingFaceGenerationAdapter(PreTrainedModel, GenerationMixin):  # type: ignore[misc]
    def __init__(
        self, model: NeuronApplicationBase, input_start_offsets: Any = None, capture_draft_logits: bool = False
    ) -> None:
        hf_config = to_pretrained_config(model.config)
        super().__init__(hf_config)
        if self.generation_config is not None and hf_config.transformers_version is not None:
            self.generation_config.transformers_version = hf_config.transformers_version
        self.neuron_model: Any = model
        self.neuron_config = model.config.neuron_config
        self.on_device_sampling = model.on_device_sampling
        self.padding_side = self.neuron_config.padding_side
        self.sampler: Sampler | None = None
        self.prev_kv_cache_populated = False
        self.input_start_offsets = input_start_offsets
        self.forward = self.neuron_model.forward

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    def generate(self, *args: Any, **kwargs: Any) -> Any:
        self.neuron_model.reset()
        settings = kwargs.get("generation_config")
        record("generate", generation_config=settings.to_diff_dict() if settings is not None else None)
        return super().generate(*args, **kwargs)

    def _sample(
        self,
        input_ids: Any,
        logits_processor: Any,
        stopping_criteria: Any,
        generation_config: GenerationConfig,
        **model_kwargs: Any,
    ) -> Any:
        """Stopping criteria are checked after each token; a streamer gets none."""
        settings: Any = generation_config
        pad_token_id = settings._pad_token_tensor
        has_end = any(hasattr(criteria, "eos_token_id") for criteria in stopping_criteria)
        params = prepare_sampling_params(
            batch_size=model_kwargs["attention_mask"].shape[0],
            top_k=settings.top_k,
            top_p=settings.top_p,
            temperature=settings.temperature,
        )
        model_kwargs["sampling_params"] = params
        logits: list[Any] = []
        unfinished = torch.ones(input_ids.shape[0], dtype=torch.long)
        finished = False
        while not finished:
            model_inputs = self.prepare_inputs_for_generation(input_ids, **model_kwargs)
            model_kwargs["attention_mask"] = model_inputs.get("attention_mask")
            outputs = self(**model_inputs, return_dict=True)
            if self.on_device_sampling:
                next_tokens = outputs.tokens
            else:
                last = outputs.logits[:, -1, :].clone()
                logits.append(last)
                next_tokens = self._sampler(settings)(logits_processor(input_ids, last), params)
            if has_end:
                next_tokens = next_tokens * unfinished + pad_token_id * (1 - unfinished)
            input_ids = torch.cat([input_ids, next_tokens[:, None]], dim=-1)
            model_kwargs = self._update_model_kwargs_for_generation(outputs, model_kwargs)
            unfinished = unfinished & ~stopping_criteria(input_ids, None)
            finished = bool(unfinished.max() == 0)
        if settings.return_dict_in_generate:
            return GenerateDecoderOnlyOutput(sequences=input_ids, logits=tuple(logits) or None)
        return input_ids

    def _sampler(self, settings: Any) -> Sampler:
        if self.sampler is None:
            config = NeuronConfig(on_device_sampling_config=OnDeviceSamplingConfig(top_k=settings.top_k))
            self.sampler = Sampler(config, do_sample=settings.do_sample)
        return self.sampler

    def prepare_inputs_for_generation(
        self,
        input_ids: Any,
        past_key_values: Any = None,
        attention_mask: Any = None,
        inputs_embeds: Any = None,
        sampling_params: Any = None,
        adapter_ids: Any = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        self.prev_kv_cache_populated = self.neuron_model.kv_cache_populated
        if self.neuron_model.kv_cache_populated:
            input_ids = input_ids[:, -1:]
        position_ids = kwargs.get("position_ids")
        if attention_mask is not None and position_ids is None:
            position_ids = attention_mask.long().cumsum(-1) - 1
            position_ids.masked_fill_(attention_mask == 0, 1)
            if self.neuron_model.kv_cache_populated:
                position_ids = torch.amax(position_ids, 1, keepdim=True) + 1
        model_inputs = {
            "input_ids": input_ids,
            "position_ids": position_ids,
            "past_key_values": past_key_values,
            "use_cache": kwargs.get("use_cache", False),
            "attention_mask": attention_mask,
            "sampling_params": sampling_params,
            "adapter_ids": adapter_ids,
        }
        for name in self.neuron_model.get_required_kwargs():
            model_inputs[name] = kwargs.get(name)
        return model_inputs

    def _update_model_kwargs_for_generation(
        self,
        outputs: Any,
        model_kwargs: dict[str, Any],
        is_for_token_generation: bool | None = None,
        is_encoder_decoder: bool = False,
    ) -> dict[str, Any]:
        """After the first token of a further step on, the mask grows by the token before."""
        grows = self.prev_kv_cache_populated if is_for_token_generation is None else is_for_token_generation
        mask = model_kwargs.get("attention_mask")
        if mask is not None and grows:
            one = mask.new_ones((mask.shape[0], 1))
            left = self.padding_side == "left"
            model_kwargs["attention_mask"] = (
                torch.cat([mask, one], dim=-1)[:, 1:] if left else torch.cat([one, mask], dim=-1)
            )
        return model_kwargs
