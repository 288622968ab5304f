"""A checkpoint's generation_config.json."""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from neuronmodel_worker.checkpoint.files import parse_json, read_small
from neuronmodel_worker.failures import ConfigInvalid

GENERATION_FILE: Final = "generation_config.json"


def read_generation_config(directory: Path) -> tuple[Mapping[str, object], tuple[str, ...]]:
    """What generation_config.json says, and warnings. Nothing where it is missing, and with a warning where it is
    empty, which to transformers is no file either.

    Raises ConfigInvalid where it is garbled, for with it the tokens that end an answer would be lost without a word;
    NotACheckpoint, LinkBroken, SourceUnreadable.
    """
    file = directory / GENERATION_FILE
    try:
        text = read_small(file)
    except FileNotFoundError:
        return {}, ()
    said = parse_json(file, text) if text.removeprefix(b"\xef\xbb\xbf").strip() else None
    if isinstance(said, dict):
        return said, ()
    if said is None or said == []:
        return {}, (f"{file} is empty and is taken as if it were not there. Download it again if the model has one.",)
    raise ConfigInvalid(f"{file} holds no JSON object. Download or copy it again, or remove it.")
