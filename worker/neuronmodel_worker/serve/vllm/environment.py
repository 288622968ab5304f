"""vLLM's environment variables."""

import importlib.metadata
from collections.abc import Mapping
from pathlib import Path
from typing import Final

ENV_INSTRUCTION: Final = "NEURONMODEL_VLLM_INSTRUCTION"
ENV_ENGINE: Final = "NEURONMODEL_VLLM_ENGINE"
"""Which of the plugin's two ways to load is meant; the instruction itself is read only where a model is loaded."""
PLUGIN_GROUP: Final = "vllm.general_plugins"
PLUGIN: Final = "neuronmodel"


def vllm_environment(
    inherited: Mapping[str, str], *, engine: str, instruction: Path, key: str, start_timeout_seconds: int
) -> dict[str, str]:
    """Returns vLLM's environment. `inherited` is what the engine adds to the worker's own, `key` the API key of vLLM's
    own port."""
    environment = {
        # Defaults that the spec's environment may override.
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_ENGINE_READY_TIMEOUT_S": str(start_timeout_seconds),
        **inherited,
        "VLLM_API_KEY": key,
        ENV_INSTRUCTION: str(instruction),
        ENV_ENGINE: engine,
    }
    if (plugins := inherited.get("VLLM_PLUGINS")) is not None:  # else vLLM loads all there are
        environment["VLLM_PLUGINS"] = ",".join(dict.fromkeys([*filter(None, plugins.split(",")), PLUGIN]))
    return environment


def plugin_is_installed() -> bool:
    """Returns whether vLLM will find our plugin, which it looks up in the metadata of installed packages."""
    return any(point.name == PLUGIN for point in importlib.metadata.entry_points(group=PLUGIN_GROUP))
