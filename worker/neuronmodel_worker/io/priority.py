"""The I/O priority of a thread."""

import ctypes
import logging
import platform
from typing import Final

log = logging.getLogger(__name__)

# From <linux/ioprio.h>: the class is in the upper bits, and 1, 0 stands for the calling thread.
_IDLE_CLASS: Final = 3 << 13
_IOPRIO_SET: Final = {"x86_64": 251, "aarch64": 30}
"""The number of the system call, by machine."""


def use_idle_priority() -> None:
    """Lets all other I/O go before the calling thread's, if the kernel's I/O scheduler supports priorities."""
    number = _IOPRIO_SET.get(platform.machine())
    if number is None or ctypes.CDLL(None, use_errno=True).syscall(number, 1, 0, _IDLE_CLASS):
        log.debug("reads and writes in the background have the usual priority")
