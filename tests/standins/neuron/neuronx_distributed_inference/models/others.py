"""The other families: their configurations, and what they may be called with. Their graphs do not compute them."""

from .config import InferenceConfig, MoENeuronConfig, NeuronConfig
from .llama.modeling_llama import LlamaInferenceConfig
from .model_base import NeuronBaseForCausalLM


class MoEInferenceConfig(LlamaInferenceConfig):
    @classmethod
    def get_neuron_config_cls(cls) -> type[NeuronConfig]:
        return MoENeuronConfig


class _Dense(NeuronBaseForCausalLM):
    @classmethod
    def get_config_cls(cls) -> type[InferenceConfig]:
        return LlamaInferenceConfig


class _Sparse(NeuronBaseForCausalLM):
    @classmethod
    def get_config_cls(cls) -> type[InferenceConfig]:
        return MoEInferenceConfig


class NeuronMistralForCausalLM(_Dense): ...


class NeuronQwen2ForCausalLM(_Dense): ...


class NeuronQwen3ForCausalLM(_Dense): ...


class NeuronGemma3ForCausalLM(_Dense): ...


class NeuronMixtralForCausalLM(_Sparse): ...


class NeuronQwen3MoeForCausalLM(_Sparse): ...


class NeuronGptOssForCausalLM(_Sparse): ...


class NeuronDbrxForCausalLM(_Sparse): ...
