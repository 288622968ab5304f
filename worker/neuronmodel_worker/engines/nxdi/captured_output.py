"""Captures what the Neuron Runtime writes while it loads: its exceptions often do not contain the cause."""

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
FLUSH_SECONDS = 2


@dataclass
class CapturedOutput:
    """The end of the output, in `text` after the context."""

    file: Path
    text: str = ""


@contextmanager
def captured_output(scratch: Path) -> Iterator[CapturedOutput]:
    """Everything written to stdout and stderr in the context goes to stderr, and its end is in `text` afterwards.

    `tee`, a process of its own, forwards it, so that the last output of a runtime that ends this process is not lost.
    """
    with tempfile.TemporaryDirectory(prefix="nxdi-load-", dir=within(scratch)) as directory:
        output = CapturedOutput(Path(directory) / "output.log")
        try:
            tee = subprocess.Popen(["tee", str(output.file)], stdin=subprocess.PIPE, stdout=2, start_new_session=True)
        except OSError:
            yield output
            return
        try:
            with _redirected(tee):
                yield output
        finally:
            with suppress(subprocess.TimeoutExpired):  # a process that was started in the context still writes to it
                tee.wait(FLUSH_SECONDS)
            with suppress(OSError):
                output.text = output.file.read_bytes()[-KEPT_BYTES:].decode(errors="replace")


@contextmanager
def _redirected(tee: "subprocess.Popen[bytes]") -> Iterator[None]:
    """Redirect the descriptors of stdout and stderr, because the runtime does not write through Python."""
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
