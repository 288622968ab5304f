"""The process: one task per NeuronModel, the operator's health endpoints and its metrics."""
