"""Many NeuronModels on one operator, on the local cluster: how long they take, and what they cost at rest. `make scale`
runs it."""
