from typing import Any

from ..models.llama.modeling_llama import NeuronLlamaForCausalLM
from ..models.others import (
    NeuronDbrxForCausalLM,
    NeuronGemma3ForCausalLM,
    NeuronGptOssForCausalLM,
    NeuronMistralForCausalLM,
    NeuronMixtralForCausalLM,
    NeuronQwen2ForCausalLM,
    NeuronQwen3ForCausalLM,
    NeuronQwen3MoeForCausalLM,
)

MODEL_TYPES: dict[str, dict[str, Any]] = {
    "gpt_oss": {"causal-lm": NeuronGptOssForCausalLM},
    "llama": {"causal-lm": NeuronLlamaForCausalLM},
    "mistral": {"causal-lm": NeuronMistralForCausalLM},
    "mixtral": {"causal-lm": NeuronMixtralForCausalLM},
    "dbrx": {"causal-lm": NeuronDbrxForCausalLM},
    "qwen2": {"causal-lm": NeuronQwen2ForCausalLM},
    "qwen3": {"causal-lm": NeuronQwen3ForCausalLM},
    "qwen3_moe": {"causal-lm": NeuronQwen3MoeForCausalLM},
    "gemma3": {"causal-lm": NeuronGemma3ForCausalLM},
}
