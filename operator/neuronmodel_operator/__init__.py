"""The operator: watches NeuronModels and makes what they ask for."""
