"""File systems of a test's own."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def volume_in_memory(directory: Path, nbytes: int) -> Iterator[Path]:
    """A tmpfs of that size. Only root can mount one; for others the test is left out."""
    directory.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={nbytes}", "tmpfs", str(directory)]
    if os.geteuid() or subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("mounting a file system of its own needs root")
    try:
        yield directory
    finally:
        subprocess.run(["umount", str(directory)], check=True)
