"""The operator: watches NeuronModels and makes what they ask for. docs/architecture.md says which module does what."""
