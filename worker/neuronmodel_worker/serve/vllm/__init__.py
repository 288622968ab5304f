"""vLLM as the server: the worker opens what was prepared, runs vLLM on it, and forwards requests.

`serve` runs a start, `process` runs vLLM's processes, `relay` is what our plugin reports from them, and `proxy` is the
port in front. `setup` is what a start needs of an engine: its arguments, its environment and its failures, which
`neuron` and `cpu` have, with what loads the weights in vLLM's process.
"""
