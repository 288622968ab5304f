"""NxD Inference behind the engines' interface. Nothing here imports anything of the Neuron SDK before it runs."""
