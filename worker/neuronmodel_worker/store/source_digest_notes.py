"""Digests of a source that a build has taken so far, noted with the rank files that it has sealed: who takes these over
need not read again what they were made from."""

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Final

from pydantic import TypeAdapter, ValidationError

from neuronmodel_worker.store.staging import Staging

PREFIX: Final = "source-digests-"
Pieces = dict[str, list[tuple[int, int, str]]]
"""By the name of the tensor: (first byte, number of bytes, xxh3-128 as hex) of each piece."""
_PIECES: Final = TypeAdapter(Pieces)


def note_digests(staging: Staging, taken: Mapping[str, Sequence[tuple[int, int, str]]]) -> None:
    """Note digests before the rank files are sealed that were made of these bytes. Raises ArtifactsVolumeFull or
    ArtifactsUnwritable."""
    if taken:
        content = _PIECES.dump_json({name: list(pieces) for name, pieces in taken.items()})
        staging.note(f"{PREFIX}{os.urandom(6).hex()}", content)


def noted_digests(staging: Staging) -> Pieces:
    """The digests that the builds have noted whose files were adopted. They are of the same content, which is part of
    the set's key. A note that cannot be read counts as absent."""
    found: Pieces = {}
    for name, content in staging.notes.items():
        if name.startswith(PREFIX):
            with suppress(ValidationError):
                for tensor, pieces in _PIECES.validate_json(content).items():
                    found.setdefault(tensor, []).extend(pieces)
    return found
