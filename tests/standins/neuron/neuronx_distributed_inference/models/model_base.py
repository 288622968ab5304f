"""NeuronBaseForCausalLM: a prompt goes to one submodel, each further token to the other."""

import copy
from typing import Any

import torch
from neuron_standin.record import record
from transformers.modeling_outputs import CausalLMOutputWithPast

from ..modules.generation.sampling import prepare_sampling_params, validate_sampling_params
from .application_base import NeuronApplicationBase
from .config import InferenceConfig, NeuronConfig
from .model_wrapper import CONTEXT_ENCODING_MODEL_TAG, TOKEN_GENERATION_MODEL_TAG, ModelWrapper


class NeuronBaseForCausalLM(NeuronApplicationBase):
    _model_cls: Any = None

    def __init__(
        self, model_path: str, config: InferenceConfig | None = None, neuron_config: NeuronConfig | None = None
    ) -> None:
        super().__init__(model_path, config=config, neuron_config=neuron_config)
        self.vocab_size = self.config.vocab_size
        self.padding_side = self.neuron_config.padding_side
        self.kv_cache_populated = False
        self.sampler = None
        self.default_sampling_params = prepare_sampling_params(self.neuron_config.batch_size)
        self.enable_context_encoding()
        self.enable_token_generation()

    def get_model_wrapper_cls(self) -> type[ModelWrapper]:
        return ModelWrapper

    def enable_context_encoding(self) -> None:
        config = copy.deepcopy(self.config)
        flags: Any = config.neuron_config
        flags.batch_size = flags.ctx_batch_size
        flags.n_active_tokens = flags.max_context_length
        flags.bucket_n_active_tokens = True
        flags.is_prefill_stage = True
        flags.buckets = flags.context_encoding_buckets or [flags.max_context_length]
        self.context_encoding_model = self._wrapped(config, CONTEXT_ENCODING_MODEL_TAG)
        self.models.append(self.context_encoding_model)

    def enable_token_generation(self) -> None:
        config = copy.deepcopy(self.config)
        flags: Any = config.neuron_config
        flags.batch_size = flags.tkg_batch_size
        flags.n_active_tokens = 1
        flags.bucket_n_active_tokens = False
        flags.sequence_parallel_enabled = False
        flags.is_prefill_stage = False
        flags.buckets = flags.token_generation_buckets or [flags.max_length]
        self.token_generation_model = self._wrapped(config, TOKEN_GENERATION_MODEL_TAG)
        self.models.append(self.token_generation_model)

    def _wrapped(self, config: InferenceConfig, tag: str) -> ModelWrapper:
        return self.get_model_wrapper_cls()(
            config=config, model_cls=self._model_cls, tag=tag, compiler_args=self.get_compiler_args()
        )

    def forward(  # type: ignore[override]
        self,
        input_ids: Any = None,
        seq_ids: Any = None,
        attention_mask: Any = None,
        position_ids: Any = None,
        past_key_values: Any = None,
        inputs_embeds: Any = None,
        sampling_params: Any = None,
        prev_hidden: Any = None,
        labels: Any = None,
        use_cache: Any = None,
        output_attentions: Any = None,
        output_hidden_states: Any = None,
        adapter_ids: Any = None,
        medusa_args: Any = None,
        return_dict: Any = None,
        llava_args: Any = (),
        input_capture_hook: Any = None,
        slot_mapping: Any = None,
        block_table: Any = None,
        full_context_lens: Any = None,
        computed_context_lens: Any = None,
        tf_args: Any = None,
    ) -> Any:
        if attention_mask is None:
            attention_mask = self._infer_attention_mask(position_ids)
        if seq_ids is None:
            seq_ids = torch.arange(input_ids.shape[0])
        if sampling_params is None:
            sampling_params = self.default_sampling_params
        if self.on_device_sampling:
            validate_sampling_params(sampling_params, self.neuron_config.on_device_sampling_config)
        is_prefill = position_ids.min().item() == 0
        model = self.context_encoding_model if is_prefill else self.token_generation_model
        record("forward", submodel=model.tag, lines=input_ids.shape[0], tokens=input_ids.shape[1])
        outputs = model(input_ids, attention_mask, position_ids, seq_ids, sampling_params, prev_hidden, adapter_ids)
        if is_prefill:
            self.kv_cache_populated = True
        constructed = CausalLMOutputWithPast(
            logits=None if self.on_device_sampling else outputs, hidden_states=outputs, attentions=None
        )
        constructed.tokens = outputs
        return constructed

    def _infer_attention_mask(self, position_ids: Any) -> Any:
        assert position_ids is not None, "neither an attention_mask nor position_ids"
        lines, length = position_ids.shape
        compared = position_ids
        if length == 1:
            length = int(position_ids.max())
            compared = position_ids.expand(lines, length) - 1
        return (compared >= torch.arange(length).view(1, -1)).to(position_ids.dtype)

    def reset(self) -> None:
        self.kv_cache_populated = False

    def get_required_kwargs(self) -> list[str]:
        return []
