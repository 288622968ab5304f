"""SmolLM2-135M-Instruct, a real model, where it was made."""

import os
from pathlib import Path

import pytest

SMOL = Path("/var/lib/neuronmodel-cluster/models/SmolLM2-135M-Instruct")

needs_the_real_model = pytest.mark.skipif(
    not (SMOL / "config.json").exists() and not os.environ.get("CI"),
    reason=f"{SMOL} is not there: `python3 -m hack.cluster model` makes it",
)
