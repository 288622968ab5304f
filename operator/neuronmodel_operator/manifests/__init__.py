"""One pure builder a Kubernetes object: from a NeuronModel to a manifest, no client, no look at the cluster."""
