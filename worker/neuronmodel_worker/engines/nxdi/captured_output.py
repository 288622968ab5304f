"""What the Neuron Runtime writes while it loads: its exceptions often do not say why they were raised."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from neuronmodel_worker.io.temporary import within

KEPT_BYTES = 1 << 16
LAST_WORDS_SECONDS = 2


@dataclass
class CapturedOutput:
    file: Path
    text: str = ""


@contextmanager
def captured_output(scratch: Path) -> Iterator[CapturedOutput]:
    """What is written to stdout and stderr in the context goes to stderr, and its end is in `text` after it.

    `tee` passes it on, a process of its own: the last words of a runtime that ends this one are not lost.
    """
    with tempfile.TemporaryDirectory(prefix="nxdi-load-", dir=within(scratch)) as directory:
        heard = CapturedOutput(Path(directory) / "output.log")
        try:
            tee = _tee(heard.file)
        except OSError:
            yield heard
            return
        try:
            with _diverted(tee):
                yield heard
        finally:
            with suppress(subprocess.TimeoutExpired):  # a process that was started meanwhile still writes to it
                tee.wait(LAST_WORDS_SECONDS)
            with suppress(OSError):
                heard.text = heard.file.read_bytes()[-KEPT_BYTES:].decode(errors="replace")


def _tee(file: Path) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(["tee", str(file)], stdin=subprocess.PIPE, stdout=2, start_new_session=True)


@contextmanager
def _diverted(tee: "subprocess.Popen[bytes]") -> Iterator[None]:
    """Stdout and stderr of this process, whoever writes to them: the runtime is no Python."""
    assert tee.stdin is not None
    own = {descriptor: os.dup(descriptor) for descriptor in (1, 2)}
    _flush()
    for descriptor in own:
        os.dup2(tee.stdin.fileno(), descriptor)
    tee.stdin.close()
    try:
        yield
    finally:
        _flush()
        for descriptor, before in own.items():
            os.dup2(before, descriptor)
            os.close(before)


def _flush() -> None:
    sys.stdout.flush()
    sys.stderr.flush()
