"""The host commands: the worker's own steps on folders (`shard`, `plan`, `load`, `verify`, `artifacts`), without
Kubernetes, and `from-command`, which turns a command of NxD Inference's into a NeuronModel.

Each is a module with one function of the command's name, which takes the parsed options, raises a WorkerFailure where
something is wrong, and prints its result. Nothing here is imported before the command line is understood.
"""
