"""The worker's image, with its own PyTorch and its own BLAS, answers right as on older processors.

In a pod that serves already: its Python computes the golden answers, each time under another level. A level that no
library of the image heeds is skipped by name. At the lowest of all, `sliced` serves: test_first_start.py asks it.
"""

import shlex
from collections.abc import Mapping
from pathlib import Path

import pytest

from neuronmodel_api import names
from tests.levels import answers
from tests.levels.levels import LEVELS, LOWEST, TALKING, title, without_effect

from .capital import MODEL, Capital

PROGRAM = Path(answers.__file__).read_text()


def run(capital: Capital, level: Mapping[str, str], argument: str) -> str:
    """What the program prints, both streams."""
    variables = " ".join(f"{name}={value}" for name, value in level.items())
    command = f"env {variables} python -c {shlex.quote(PROGRAM)} {argument}"
    pod = capital.kept.serving_pod()["metadata"]["name"]
    return capital.room.cluster.execute(capital.room.namespace, pod, command)


@pytest.mark.parametrize("level", [level for level in LEVELS if level is not LOWEST], ids=title)
def test_the_image_answers_the_same(capital: Capital, level: Mapping[str, str]) -> None:
    output = run(capital, {**level, **TALKING}, "--multiply")
    assert "CAPABILITY" in output, output
    if reason := without_effect(level, output):
        pytest.skip(f"in the worker's image {reason}")
    output = run(capital, level, f"{names.SOURCE_MOUNT}/{MODEL}")
    assert "ANSWERS RIGHT" in output, output


def test_the_image_multiplies_with_openblas(capital: Capital) -> None:
    """With the reference BLAS a token takes three times as long."""
    assert "/openblas" in run(capital, {}, "--multiply")
