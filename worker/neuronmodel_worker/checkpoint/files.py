"""Small files of a checkpoint, and what is in the place of one.

Each refusal names the file. An error of the volume is SourceUnreadable, which is no statement about the checkpoint.
"""

import json
from pathlib import Path
from typing import NoReturn

from neuronmodel_worker.checkpoint.file_signatures import HEAD_BYTES, identify_content
from neuronmodel_worker.failures import ConfigInvalid, NotACheckpoint
from neuronmodel_worker.io import untrusted_input
from neuronmodel_worker.io.untrusted_input import NotAFile
from neuronmodel_worker.sources import WeightSource

# The index of 200,000 tensors is 20 MB long.
MAX_JSON_BYTES = 100_000_000

UTF_16 = (b"\xff\xfe", b"\xfe\xff")
NO_FILE = "is a directory, a pipe or a device, where a file has to be. Put the checkpoint's own there."


def head_of(source: WeightSource, name: str) -> bytes:
    """The first bytes of a file; empty where it does not exist or is no regular file. Raises LinkBroken,
    SourceUnreadable."""
    try:
        with source.stream(name) as stream:
            return stream.read(HEAD_BYTES)
    except (FileNotFoundError, NotAFile):
        return b""


def refuse_wrong_content(source: WeightSource, name: str, *, may_be_empty: bool = False) -> None:
    """Raises NotACheckpoint where a file has another content than its name says, LinkBroken where it is a link that
    leads nowhere, and SourceUnreadable. A file that does not exist is not refused."""
    file = source.path(name)
    try:
        with source.stream(name) as stream:
            head = stream.read(HEAD_BYTES)
    except FileNotFoundError:
        return
    except NotAFile as error:
        raise NotACheckpoint(f"{file} {NO_FILE}") from error
    refuse_identified(file, head)
    if not may_be_empty and not head.strip():
        raise NotACheckpoint(f"{file} is empty. Download or copy it again.")


def refuse_identified(file: Path, head: bytes) -> None:
    """Raises NotACheckpoint where `head`, the first bytes of `file`, are those of another kind of file."""
    if found := identify_content(head):
        raise NotACheckpoint(f"{file} is {found.what}. {found.remedy}.")


def read_json_object(source: WeightSource, name: str) -> dict[str, object]:
    """Read a JSON object from a small file. Raises ConfigInvalid, NotACheckpoint, LinkBroken, SourceUnreadable,
    FileNotFoundError."""
    file = source.path(name)
    content = parse_json(file, read_small(source, name))
    if not isinstance(content, dict):
        raise ConfigInvalid(f"{file} holds no JSON object. Download or copy it again.")
    return content


def read_small(source: WeightSource, name: str) -> bytes:
    """Read a text file, which may not be longer than such files are. Raises what `read_json_object` raises."""
    file = source.path(name)
    try:
        with source.stream(name) as stream:
            text = stream.read(MAX_JSON_BYTES + 1)
    except NotAFile as error:
        raise ConfigInvalid(f"{file} {NO_FILE}") from error
    refuse_identified(file, text[:HEAD_BYTES])
    if len(text) > MAX_JSON_BYTES or untrusted_input.has_too_many_values(text):
        raise ConfigInvalid(
            f"{file} is far larger than such a file is: at most {MAX_JSON_BYTES:,} bytes and "
            f"{untrusted_input.MAX_VALUES:,} values are read. Put the checkpoint's own there."
        )
    return text


def parse_json(file: Path, text: bytes) -> object:
    """The value of a JSON text. Raises ConfigInvalid."""

    def refuse(what: str) -> NoReturn:
        raise ConfigInvalid(f"{file} is not valid JSON ({what}). Download or copy it again.")

    if not text.strip():
        refuse("it is empty")
    if text.startswith(UTF_16):
        refuse("it is text in UTF-16, and has to be in UTF-8")
    try:
        content: object = json.loads(text.decode("utf-8-sig"), parse_int=untrusted_input.integer)
    except RecursionError:
        refuse("nested too deep")
    except ValueError as error:
        refuse(str(error))
    if untrusted_input.is_nested_too_deep(content):
        refuse("nested too deep")
    if untrusted_input.has_half_a_character(text, content):
        refuse("a string in it ends within a character")
    return content
