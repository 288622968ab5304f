"""What the Neuron Runtime writes to stderr while it loads: its exceptions often do not say why they were raised."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

KEPT_BYTES = 1 << 16
LAST_WORDS_SECONDS = 2


@dataclass
class Heard:
    file: Path
    text: str = ""


@contextmanager
def overheard(scratch: Path) -> Iterator[Heard]:
    """What is written to stderr in the context goes there as ever, and its end is in `text` after it.

    `tee` passes it on, a process of its own: the last words of a runtime that ends this one are not lost.
    """
    with tempfile.TemporaryDirectory(prefix="nxdi-load-", dir=scratch) as directory:
        heard = Heard(Path(directory) / "stderr.log")
        sys.stderr.flush()
        own = os.dup(2)
        try:
            tee = subprocess.Popen(["tee", str(heard.file)], stdin=subprocess.PIPE, stdout=own, start_new_session=True)
        except OSError:
            os.close(own)
            yield heard
            return
        assert tee.stdin is not None
        os.dup2(tee.stdin.fileno(), 2)
        tee.stdin.close()
        try:
            yield heard
        finally:
            sys.stderr.flush()
            os.dup2(own, 2)
            os.close(own)
            with suppress(subprocess.TimeoutExpired):  # a process that was started meanwhile still writes to it
                tee.wait(LAST_WORDS_SECONDS)
            with suppress(OSError):
                heard.text = heard.file.read_bytes()[-KEPT_BYTES:].decode(errors="replace")
