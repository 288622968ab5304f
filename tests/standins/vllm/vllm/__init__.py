"""Stands in for vLLM 0.16 in tests: its command line, its two processes, its plugins, its API, nothing of its speed.

`VLLM_STANDIN_FAIL` names what goes wrong, separated by commas: `engine-dies` (the engine's process ends with the first
request), `api-dies` (the server's does), `ignores-sigterm`, `no-health` (/health says 503).
"""

__version__ = "0.16.0"
