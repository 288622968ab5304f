"""Our header parser compared with the safetensors library: what each of them makes of the same file."""

import json
import math
import os
import re
from pathlib import Path
from typing import Any

import safetensors

from neuronmodel_worker.checkpoint import TensorSource, read_header
from neuronmodel_worker.failures import BadInput
from neuronmodel_worker.io.untrusted_input import MAX_VALUES

# (dtype, shape, bytes) by name.
Contents = dict[str, tuple[str, list[int], bytes]]


class Disagreement(Exception):
    """A file that one accepts and the other refuses, or that they read differently."""


def compare(content: bytes, file: Path) -> bool:
    """Write `content` to `file` and have both judge it; whether they accepted it.

    Raises Disagreement, and whatever ours lets through that is not its own failure.
    """
    file.write_bytes(content)
    theirs = library_reads(content)
    ours = we_read(file, content)
    if isinstance(ours, str):
        if theirs is not None and not deliberate(ours, content):
            raise Disagreement(f"the library accepts what we refuse: {ours}\n{content!r}")
        return False
    if theirs is None:
        raise Disagreement(f"we accept what the library refuses:\n{content!r}")
    if ours != theirs:
        raise Disagreement(f"read differently:\n{content!r}\n{ours}\n{theirs}")
    return True


def library_reads(content: bytes) -> Contents | None:
    try:
        tensors: list[tuple[str, dict[str, Any]]] = safetensors.deserialize(content)  # type: ignore[no-untyped-call]
    except safetensors.SafetensorError:
        return None
    return {name: (each["dtype"], each["shape"], bytes(each["data"])) for name, each in tensors}


def we_read(file: Path, content: bytes) -> Contents | str:
    """What is in it, or our sentence."""
    try:
        source, tensors = read_header(file)
    except BadInput as refusal:
        return _checked(str(refusal), file)
    assert source.nbytes == len(content)
    return {name: (each.dtype, list(each.shape), _bytes_of(each, content)) for name, each in tensors.items()}


def _bytes_of(tensor: TensorSource, content: bytes) -> bytes:
    return content[tensor.offset : tensor.offset + tensor.nbytes]


def _checked(sentence: str, file: Path) -> str:
    """A refusal names the file, fits into a status and can be printed."""
    sentence.encode()
    assert os.fspath(file) in sentence, sentence
    assert sentence.endswith("."), sentence
    assert sentence.isprintable(), sentence
    assert len(sentence) < 1000, sentence
    return sentence


def deliberate(sentence: str, content: bytes) -> bool:
    """Whether that refusal is one of ours alone (see `checkpoint.header`) and `content` gives cause for it."""
    header = content[8 : 8 + int.from_bytes(content[:8], "little")]
    return any(words in sentence and gives_cause(header) for words, gives_cause in OURS_ALONE.items())


def _key_twice(header: bytes) -> bool:
    twice = False

    def look(pairs: list[tuple[str, object]]) -> None:
        nonlocal twice
        names = [name for name, _ in pairs]
        twice = twice or len(set(names)) < len(names)

    json.loads(header.decode(), object_pairs_hook=look)
    return twice


def _too_many_values(header: bytes) -> bool:
    return len(header) > MAX_VALUES


def _near_the_largest_number(header: bytes) -> bool:
    numbers = re.findall(rb"-?\d[\d.eE+-]*", header)
    return any(abs(float(n)) >= 1.797e308 for n in numbers if _is_number(n) and math.isfinite(float(n)))


def _is_number(text: bytes) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


OURS_ALONE = {
    "a key occurs twice": _key_twice,
    f"more than {MAX_VALUES:,} values": _too_many_values,
    "nested too deep or too large": _near_the_largest_number,
}
