"""vLLM as the server: the worker opens what was prepared, runs vLLM on it, and passes requests on.

`command` goes through a start; `arguments` are vLLM's command line, `process` its processes, `relay` what our plugin
tells from there, `handover` what the plugin does there, `proxy` the port in front.
"""
