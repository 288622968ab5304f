"""Reads the checkpoint's files past the page cache into reused, aligned memory: as fast as the disk gives them.

Without O_DIRECT where the kernel has none for the file system, as for tmpfs before Linux 6.6.
"""

import errno
import mmap
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from hack.bench.contenders.task import Task, Timed

BLOCK_BYTES = 16 << 20


def prepare(task: Task) -> Timed:
    """`threads`, and `block_bytes` where it is not 16 MiB."""
    threads, block_bytes = task.options["threads"], task.options.get("block_bytes", BLOCK_BYTES)
    blocks = [(file, start) for file in task.source_files for start in range(0, file.stat().st_size, block_bytes)]
    descriptors = {file: _opened(file) for file in task.source_files}
    buffers = [_touched(block_bytes) for _ in range(threads)]
    return lambda: _read(blocks, descriptors, buffers)


def _opened(file: Path) -> int:
    try:
        return os.open(file, os.O_RDONLY | os.O_DIRECT)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return os.open(file, os.O_RDONLY)


def _touched(nbytes: int) -> mmap.mmap:
    """Anonymous memory that is really there, aligned to pages and so to the disk's blocks."""
    memory = mmap.mmap(-1, nbytes)
    memory.write(bytes(nbytes))
    return memory


def _read(blocks: list[tuple[Path, int]], descriptors: dict[Path, int], buffers: list[mmap.mmap]) -> None:
    remaining, lock = iter(blocks), threading.Lock()

    def read_some(buffer: mmap.mmap) -> None:
        while True:
            with lock:
                block = next(remaining, None)
            if block is None:
                return
            os.preadv(descriptors[block[0]], [buffer], block[1])

    with ThreadPoolExecutor(len(buffers)) as pool:
        list(pool.map(read_some, buffers))
