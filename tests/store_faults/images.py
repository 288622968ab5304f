"""An ext4 file system in a file, and photographs of it: what its disk would hold if the power were cut that moment.

The file system stands on a loop device. What only its own page cache knows is not in the file behind the device; a copy
of the file, mounted elsewhere, replays its journal as after a power cut. What this cannot show: a drive that loses
writes it has acknowledged without a flush, or directory entries in another order than ext4's journal keeps.
"""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import xxhash

from tests.store_faults.calls import Call
from tests.store_faults.traced import Answer, Verdict

NBYTES = 8 << 20
FORMAT = ["mkfs.ext4", "-q", "-b", "1024", "-J", "size=1", "-E", "lazy_itable_init=0,lazy_journal_init=0,nodiscard"]
NO_PERIODIC_COMMIT = "commit=3600"


def formatted(image: Path) -> Path:
    """Skips where there is nothing to do it with; fails where CI asks for the whole."""
    image.touch()
    os.truncate(image, NBYTES)
    _or_skip([*FORMAT, str(image)])
    return image


@contextmanager
def mounted(image: Path, at: Path) -> Iterator[Path]:
    at.mkdir()
    _or_skip(["mount", "-t", "ext4", "-o", f"loop,{NO_PERIODIC_COMMIT}", str(image), str(at)])
    try:
        yield at
    finally:
        subprocess.run(["umount", str(at)], check=True)
        at.rmdir()


def _or_skip(command: list[str]) -> None:
    try:
        failure = subprocess.run(command, check=False, capture_output=True, text=True).stderr.strip()
    except FileNotFoundError as error:
        failure = str(error)
    if failure and os.environ.get("CI") == "true":
        pytest.fail(f"{command[0]} is needed here, with root and loop devices: {failure}")
    if failure:
        pytest.skip(f"needs root, loop devices and {command[0]}: {failure}")


@dataclass
class Photographer:
    """Takes a picture of `image` before every change, while nobody moves, into `album`, unless it would be the same as
    the one before. Its name is the change's number."""

    image: Path
    album: Path
    quiet: bool = field(default=True, init=False)
    _last: bytes = field(default=b"", init=False)

    def judge(self, number: int, call: Call) -> Verdict | Answer:
        self.take(number)
        return Verdict.GO_ON

    def take(self, number: int) -> Path | None:
        content = self.image.read_bytes()
        if (digest := xxhash.xxh3_128_digest(content)) == self._last:
            return None
        self._last = digest
        picture = self.album / f"{number:06}"
        picture.write_bytes(content)
        return picture
