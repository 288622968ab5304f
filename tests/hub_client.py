"""The newest `huggingface_hub`, unmodified, in a virtual environment of its own: the project's holds an older one.

`hack/locks/hub-client.txt` names it. The environment is made when it is first asked for, and again when the lock has
changed.
"""

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

from tests.paths import PROJECT

FOLDER: Final = PROJECT / ".venv-hub-client"
LOCK: Final = PROJECT / "hack" / "locks" / "hub-client.txt"
UV: Final = PROJECT / ".venv" / "bin" / "uv"


class NotInstalled(Exception):
    """The message is a sentence with what the installer said last."""


def python() -> Path:
    """The environment's interpreter; a test is skipped without one, and fails where nothing may be left out."""
    try:
        return ensured(FOLDER, LOCK)
    except NotInstalled as error:
        if os.environ.get("CI"):
            pytest.fail(str(error))
        pytest.skip(str(error))


def ensured(folder: Path, lock: Path) -> Path:
    """Complete or made anew: what says that it is complete is written last, and one process at a time makes it."""
    environment, installed = folder / "environment", folder / "installed"
    folder.mkdir(exist_ok=True)
    with _locked(folder / "lock") as held:
        wanted = hashlib.sha256(lock.read_bytes() + sys.version.encode()).hexdigest()
        if not installed.exists() or installed.read_text() != wanted:
            installed.unlink(missing_ok=True)
            shutil.rmtree(environment, ignore_errors=True)
            _install(environment, lock, held)
            installed.write_text(wanted)
    return environment / "bin" / "python"


def _install(environment: Path, lock: Path, held: int) -> None:
    _uv(held, "venv", "--python", sys.executable, environment)
    _uv(held, "pip", "sync", "--python", environment / "bin" / "python", "--require-hashes", lock)


def _uv(held: int, *arguments: str | Path) -> None:
    """It holds the lock too: it goes on to write for a while where the process that started it is killed."""
    command = [str(UV), *map(str, arguments), "--quiet"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, pass_fds=(held,))
    except OSError as error:
        raise NotInstalled(f"{UV} is missing, which makes the environment of the Hub's client ({error}).") from error
    if done.returncode:
        said = done.stderr.strip().splitlines()[-1:]
        raise NotInstalled(f"The Hub's client could not be installed from {LOCK.name}: {' '.join(said) or 'no reason'}")


@contextmanager
def _locked(path: Path) -> Iterator[int]:
    """The lock's descriptor; it is free when the last process that has it has ended, however that ends."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield file.fileno()
