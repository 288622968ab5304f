"""transformers, imported for its tokenizers alone.

With PyTorch at hand its import takes seconds, as it imports what it could do with it. So PyTorch is hidden from it for
as long as that takes, unless the process has imported it before: NxD Inference does, and needs all of it.
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

TRIED: Final = (4, 57)
"""The minor version that the tests read every tokenizer with."""
OLDEST: Final = (4, 48)
"""The first that knows chat_template.jinja."""

WHILE_IMPORTED: Final = {
    "USE_TORCH": "0",
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",  # that there is no PyTorch
}


class TransformersUnsupported(WorkerFailure):
    reason = Reason.TRANSFORMERS_UNSUPPORTED
    exit_code = exits.NO_ENGINE


class TokenizersGaveUp(RuntimeError):
    """The library `tokenizers` ended a call in a panic, which Python gets as an exception that is none of its own."""


@contextmanager
def panics_caught() -> Iterator[None]:
    """Raises TokenizersGaveUp for a panic."""
    try:
        yield
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        raise TokenizersGaveUp(f"tokenizers gave up: {error}") from error


@cache
def transformers() -> ModuleType:
    """Raises TransformersUnsupported where it is missing or too old; one that was not tried is warned of."""
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
    """Raises TransformersUnsupported."""
    found = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
    if found < OLDEST:
        raise TransformersUnsupported(
            f"transformers {version} is installed, and tokenizers are read by {_named(OLDEST)} or later. Use an image "
            "with a later one."
        )
    log.info("tokenizers are read by transformers %s", version)
    if found != TRIED:
        log.warning(
            "transformers %s is installed, and tokenizers are known to be read right by %s: compare the tokens of a "
            "prompt with those that you expect",
            version,
            _named(TRIED),
        )


def _named(version: tuple[int, int]) -> str:
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
