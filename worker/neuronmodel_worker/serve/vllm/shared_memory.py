"""Shared memory that a vLLM which was killed leaves behind. A pod keeps it when its container is restarted, and counts
it as its own: restart by restart it would fill up."""

import logging
from contextlib import suppress
from pathlib import Path
from typing import Final

log = logging.getLogger(__name__)

LEFT_BEHIND: Final = ("psm_*", "*-cpushm_*")
"""Segments of Python's `multiprocessing`, and of vLLM's ranks on processors."""
PROCESSES: Final = Path("/proc")
BLOCK_BYTES: Final = 512


def remove_left_behind(directory: Path) -> None:
    """Removes the segments that no process has mapped. Those of other users stay."""
    found = [file for pattern in LEFT_BEHIND for file in directory.glob(pattern)]
    if not found:
        return
    mapped, nbytes = _mapped_below(directory), 0
    for file in found:
        if str(file) in mapped:
            continue
        with suppress(OSError):  # another user's, or gone
            size = file.stat().st_blocks * BLOCK_BYTES
            file.unlink()
            nbytes += size
    if nbytes:
        log.info("removed %d bytes of shared memory that a former run left behind", nbytes)


def _mapped_below(directory: Path) -> set[str]:
    """Returns the paths that processes have mapped, as far as this user may see."""
    found = set[str]()
    for maps in PROCESSES.glob("[0-9]*/maps"):
        with suppress(OSError):
            for line in maps.read_text(errors="replace").splitlines():
                path = line.partition("/")
                if path[1] and (mapped := path[1] + path[2]).startswith(f"{directory}/"):
                    found.add(mapped)
    return found
