"""What one look at the cluster leads to: for a NeuronModel that is wanted, and for one that goes."""
