"""The commands that people type: the worker's own steps on folders (`shard`, `plan`, `load`, `verify`, `artifacts`),
without Kubernetes, and `from-command`, which turns an NxD Inference command line into a NeuronModel.

Each is a module with one function of the command's name, which takes the parsed options, raises a WorkerFailure if
something is wrong, and prints its result. Nothing is imported before the command line has been parsed.
"""
