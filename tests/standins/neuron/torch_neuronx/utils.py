import os
from pathlib import Path

from neuron_standin import machine

PLATFORMS = ("inf2", "trn1", "trn2", "trn3")
PRODUCT_NAME = Path("/sys/devices/virtual/dmi/id/product_name")


def get_platform_target() -> str:
    """What the environment overrides, else what the machine is. Raises RuntimeError on a machine without Neuron."""
    override = os.environ.get("NEURON_PLATFORM_TARGET_OVERRIDE")
    if override:
        assert override.lower() in PLATFORMS, f"{override} is no platform"
        return override.lower()
    if machine.devices():
        return str(machine.PLATFORM)
    product = PRODUCT_NAME.read_text().strip() if PRODUCT_NAME.exists() else "unknown"
    raise RuntimeError(f"Unsupported Platform - {product}.")
