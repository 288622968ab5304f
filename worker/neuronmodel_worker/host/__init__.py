"""The host commands `shard`, `plan`, `load` and `verify`: the worker's own steps on folders, without Kubernetes.

Each is a module with one function of the command's name, which takes the parsed options, raises a WorkerFailure where
something is wrong, and prints its result. Nothing here is imported before the command line is understood.
"""
