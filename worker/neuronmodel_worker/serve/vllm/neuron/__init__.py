"""vLLM on its Neuron plugin: NxD Inference computes, from a compiled graph and our tensors."""
