"""Where `--model` says that a checkpoint is: a folder, or a source on a network."""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from neuronmodel_worker.failures import UsageInvalid
from neuronmodel_worker.sources import Folder, WeightSource
from neuronmodel_worker.sources.network import forms, open_named, parse_address

URL: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


def open_source(model: str, environment: Mapping[str, str] | None = None) -> WeightSource:
    """Returns the source that `--model` names, read with what the environment has. Raises UsageInvalid, and what
    opening it raises."""
    try:
        address = parse_address(model)
        if address:
            return open_named(address, dict(os.environ) if environment is None else environment)
    except ValueError as error:
        raise UsageInvalid(str(error)) from error
    if URL.match(model):
        raise UsageInvalid(f"--model is {model!r}, which is read from nowhere. Name a folder, or {forms()}.")
    return Folder(Path(model))
