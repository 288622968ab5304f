"""The I/O priority of a thread, where the kernel's I/O scheduler knows of one."""

import ctypes
import logging
import platform
from typing import Final

log = logging.getLogger(__name__)

# <linux/ioprio.h>: class in the upper bits; who 1 and 0: the calling thread. The number of ioprio_set by machine.
_IDLE_CLASS: Final = 3 << 13
_IOPRIO_SET: Final = {"x86_64": 251, "aarch64": 30}


def use_idle_priority() -> None:
    """Let the calling thread's reads and writes wait for everybody else's, where the I/O scheduler knows of it."""
    number = _IOPRIO_SET.get(platform.machine())
    if number is None or _libc().syscall(number, 1, 0, _IDLE_CLASS):
        log.debug("reads and writes in the background have the usual priority")


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)
