"""Entry points: each process loads them before it does anything else, and some processes twice."""

import importlib
import importlib.metadata
import logging
import os
from collections.abc import Callable
from typing import Any

logger = logging.getLogger("vllm")
GENERAL = "vllm.general_plugins"
PLATFORMS = "vllm.platform_plugins"


def load_plugins_by_group(group: str) -> dict[str, Callable[[], Any]]:
    """Those that VLLM_PLUGINS names, all where it is not set; one that cannot be loaded is logged and left out."""
    allowed = os.environ["VLLM_PLUGINS"].split(",") if "VLLM_PLUGINS" in os.environ else None
    loaded = {}
    for point in importlib.metadata.entry_points(group=group):
        if allowed is None or point.name in allowed:
            try:
                loaded[point.name] = point.load()
            except Exception:
                logger.exception("plugin %s cannot be loaded", point.name)
    return loaded


def load_general_plugins() -> None:
    for register in load_plugins_by_group(GENERAL).values():
        register()


def platform() -> Any:
    """The class that the one platform plugin names."""
    for register in load_plugins_by_group(PLATFORMS).values():
        if name := register():
            module, _, attribute = name.rpartition(".")
            return getattr(importlib.import_module(module), attribute)
    raise RuntimeError("Failed to infer device type, please set the environment variable VLLM_LOGGING_LEVEL=DEBUG")
