"""transformers, imported for its tokenizers only.

If PyTorch is installed, the import takes seconds, because transformers imports everything that uses it. So PyTorch is
hidden during the import, unless the process has imported transformers before: NxD Inference does, and needs all of it.
"""

import importlib
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from types import ModuleType
from typing import Final

from neuronmodel_api import exits
from neuronmodel_api.reasons import Reason
from neuronmodel_worker.failures import WorkerFailure

log = logging.getLogger(__name__)

TESTED: Final = (4, 57)
"""The minor version with which the tests read every tokenizer."""
OLDEST: Final = (4, 48)
"""The first version that reads chat_template.jinja."""

WHILE_IMPORTED: Final = {
    "USE_TORCH": "0",
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",  # the warning that there is no PyTorch
}


class TransformersUnsupported(WorkerFailure):
    reason = Reason.TRANSFORMERS_UNSUPPORTED
    exit_code = exits.NO_ENGINE


class TokenizersPanicked(RuntimeError):
    """The library `tokenizers` ended a call with a panic, which is no subclass of Exception in Python."""


@contextmanager
def panics_caught() -> Iterator[None]:
    """Raises TokenizersPanicked for a panic."""
    try:
        yield
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        raise TokenizersPanicked(f"tokenizers gave up: {error}") from error


@cache
def transformers() -> ModuleType:
    """The module. Raises TransformersUnsupported where it is missing or too old; a version that was not tested is
    logged as a warning."""
    with _environment({} if "transformers" in sys.modules else WHILE_IMPORTED):
        try:
            module = importlib.import_module("transformers")
            importlib.import_module("transformers.models.auto.tokenization_auto")
        except ImportError as error:
            raise TransformersUnsupported(
                f"transformers, which reads tokenizers, cannot be imported: {error}. Install the extra `worker`; in a "
                "Neuron image it is the SDK's."
            ) from error
    check_version(str(module.__version__))
    return module


def check_version(version: str) -> None:
    """Check the version of transformers. Raises TransformersUnsupported."""
    found = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
    if found < OLDEST:
        raise TransformersUnsupported(
            f"transformers {version} is installed, and tokenizers are read by {_version_text(OLDEST)} or later. Use an "
            "image with a later one."
        )
    log.info("tokenizers are read by transformers %s", version)
    if found != TESTED:
        log.warning(
            "transformers %s is installed, and tokenizers are known to be read right by %s: compare the tokens of a "
            "prompt with those that you expect",
            version,
            _version_text(TESTED),
        )


def _version_text(version: tuple[int, int]) -> str:
    return ".".join(map(str, version))


@contextmanager
def _environment(variables: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
