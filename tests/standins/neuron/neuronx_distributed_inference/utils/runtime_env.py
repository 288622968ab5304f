import os
from typing import Any

LONG_CONTEXT_RUNTIME_ENV_VARS = {"NEURON_RT_EXEC_TIMEOUT": "600", "NEURON_RT_DBG_SCRATCHPAD_ON_SINGLE_CORE": "1"}


def set_env_vars(neuron_config: Any) -> None:
    """What is set already stays."""
    wanted = dict(LONG_CONTEXT_RUNTIME_ENV_VARS) if neuron_config.enable_long_context_mode else {}
    if neuron_config.scratchpad_page_size:
        wanted["NEURON_SCRATCHPAD_PAGE_SIZE"] = str(neuron_config.scratchpad_page_size)
    for name, value in wanted.items():
        os.environ.setdefault(name, value)
