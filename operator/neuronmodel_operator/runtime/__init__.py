"""The process: one task a NeuronModel, and what Kubernetes and Prometheus ask of the operator itself."""
