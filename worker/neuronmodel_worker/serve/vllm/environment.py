"""vLLM's environment variables."""

import importlib.metadata
from collections.abc import Mapping
from pathlib import Path
from typing import Final

ENV_INSTRUCTION: Final = "NEURONMODEL_VLLM_INSTRUCTION"
PLUGIN_GROUP: Final = "vllm.general_plugins"
PLUGIN: Final = "neuronmodel"


def vllm_environment(
    inherited: Mapping[str, str], *, view: Path, instruction: Path, key: str, start_timeout_seconds: int
) -> dict[str, str]:
    """Returns vLLM's environment. `view` is the folder with the compiled model, `key` the API key of vLLM's own
    port."""
    environment = {
        # Defaults that the spec's environment may override.
        "VLLM_NEURON_FRAMEWORK": "neuronx-distributed-inference",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_ENGINE_READY_TIMEOUT_S": str(start_timeout_seconds),
        **inherited,
        "NEURON_COMPILED_ARTIFACTS": str(view),
        "VLLM_API_KEY": key,
        ENV_INSTRUCTION: str(instruction),
    }
    if (plugins := inherited.get("VLLM_PLUGINS")) is not None:  # else vLLM loads all there are
        environment["VLLM_PLUGINS"] = ",".join(dict.fromkeys([*filter(None, plugins.split(",")), PLUGIN]))
    return environment


def plugin_is_installed() -> bool:
    """Returns whether vLLM will find our plugin, which it looks up in the metadata of installed packages."""
    return any(point.name == PLUGIN for point in importlib.metadata.entry_points(group=PLUGIN_GROUP))
