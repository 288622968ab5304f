"""`kubectl nm`: what NeuronModels do and why, in a terminal. It asks the cluster through kubectl alone, so that the
user's configuration, contexts and authentication hold."""
