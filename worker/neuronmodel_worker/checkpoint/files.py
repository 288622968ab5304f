"""Files of a checkpoint in a folder: whether one exists, what is in it, and what is in its place.

Each refusal names the file. An error of the volume is SourceUnreadable, which is no statement about the checkpoint.
"""

import errno
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

from neuronmodel_worker.checkpoint import untrusted_input
from neuronmodel_worker.checkpoint.file_signatures import HEAD_BYTES, identify_content
from neuronmodel_worker.checkpoint.untrusted_input import shown
from neuronmodel_worker.failures import ConfigInvalid, LinkBroken, NotACheckpoint, SourceUnreadable

# The index of 200,000 tensors is 20 MB long.
MAX_JSON_BYTES = 100_000_000

UTF_16 = (b"\xff\xfe", b"\xfe\xff")
NO_FILE = "is a directory, a pipe or a device, where a file has to be. Put the checkpoint's own there."


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Turns errors of the file system for `path` into SourceUnreadable, except for a file that does not exist, and into
    LinkBroken where a link leads nowhere."""
    try:
        yield
    except OSError as error:
        refuse_broken_link(path)
        if isinstance(error, FileNotFoundError):
            raise
        raise SourceUnreadable(path, error) from error


def file_exists(path: Path) -> bool:
    """Whether a file exists. Unlike `Path.exists`, this raises for a file that may not be looked at."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def refuse_broken_link(path: Path) -> None:
    """Raises LinkBroken where `path` is a symbolic link to nothing, or in a circle."""
    try:
        target = os.fspath(path.readlink())
    except (OSError, ValueError):
        return
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        raise LinkBroken(path, shown(target), "there is nothing") from None
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise LinkBroken(path, shown(target), "that leads around in a circle") from None


def head_of(path: Path) -> bytes:
    """The first bytes of a file; empty where it does not exist or is no regular file. Raises LinkBroken,
    SourceUnreadable."""
    try:
        with readable(path), untrusted_input.open_regular(path) as stream:
            return stream.read(HEAD_BYTES)
    except (FileNotFoundError, untrusted_input.NotAFile):
        return b""


def refuse_wrong_content(file: Path, *, may_be_empty: bool = False) -> None:
    """Raises NotACheckpoint where `file` has another content than its name says, LinkBroken where it is a link that
    leads nowhere, and SourceUnreadable. A file that does not exist is not refused."""
    try:
        with readable(file), untrusted_input.open_regular(file) as stream:
            head = stream.read(HEAD_BYTES)
    except FileNotFoundError:
        return
    except untrusted_input.NotAFile as error:
        raise NotACheckpoint(f"{file} {NO_FILE}") from error
    refuse_identified(file, head)
    if not may_be_empty and not head.strip():
        raise NotACheckpoint(f"{file} is empty. Download or copy it again.")


def refuse_identified(file: Path, head: bytes) -> None:
    """Raises NotACheckpoint where `head`, the first bytes of `file`, are those of another kind of file."""
    if found := identify_content(head):
        raise NotACheckpoint(f"{file} is {found.what}. {found.remedy}.")


def read_json_object(file: Path) -> dict[str, object]:
    """Read a JSON object from a small file. Raises ConfigInvalid, NotACheckpoint, LinkBroken, SourceUnreadable,
    FileNotFoundError."""
    content = parse_json(file, read_small(file))
    if not isinstance(content, dict):
        raise ConfigInvalid(f"{file} holds no JSON object. Download or copy it again.")
    return content


def read_small(file: Path) -> bytes:
    """Read a text file, which may not be longer than such files are. Raises what `read_json_object` raises."""
    try:
        with readable(file), untrusted_input.open_regular(file) as stream:
            text = stream.read(MAX_JSON_BYTES + 1)
    except untrusted_input.NotAFile as error:
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
