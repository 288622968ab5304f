"""A checkpoint's generation_config.json."""

from collections.abc import Mapping
from typing import Final

from neuronmodel_worker.checkpoint.files import parse_json, read_small
from neuronmodel_worker.failures import ConfigInvalid
from neuronmodel_worker.sources import WeightSource

GENERATION_FILE: Final = "generation_config.json"


def read_generation_config(source: WeightSource) -> tuple[Mapping[str, object], tuple[str, ...]]:
    """The content of generation_config.json, and warnings. The content is empty where the file is missing; where the
    file is empty, which transformers treats as missing, there is a warning.

    Raises ConfigInvalid where it is garbled: the tokens that end an answer would be lost without a warning. Raises also
    NotACheckpoint, LinkBroken, SourceUnreadable.
    """
    file = source.path(GENERATION_FILE)
    try:
        text = read_small(source, GENERATION_FILE)
    except FileNotFoundError:
        return {}, ()
    content = parse_json(file, text) if text.removeprefix(b"\xef\xbb\xbf").strip() else None
    if isinstance(content, dict):
        return content, ()
    if content is None or content == []:
        return {}, (f"{file} is empty and is taken as if it were not there. Download it again if the model has one.",)
    raise ConfigInvalid(f"{file} holds no JSON object. Download or copy it again, or remove it.")
