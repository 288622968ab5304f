"""vLLM as the server: the worker opens what was prepared, runs vLLM on it, and forwards requests.

`serve` runs a start, `arguments` builds vLLM's command line, `process` runs its processes, `load_hooks` is what our
plugin does in them, `relay` is what the plugin reports, and `proxy` is the port in front.
"""
