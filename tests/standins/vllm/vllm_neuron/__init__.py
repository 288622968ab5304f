"""Stands in for vLLM's Neuron plugin, 0.5: the platform, and the control flow by which it loads a model."""


def register() -> str:
    return "vllm_neuron.platform.NeuronPlatform"
