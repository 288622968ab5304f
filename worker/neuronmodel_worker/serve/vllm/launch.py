"""Replaces itself with a command that is terminated when the worker that launched it is killed.

`python -m neuronmodel_worker.serve.vllm.launch <the worker's process> <command> …` is a program of its own because a
process with threads cannot safely run Python between fork and exec.
"""

import ctypes
import os
import signal
import sys
from typing import Final

# From <linux/prctl.h>. The setting survives exec.
PR_SET_PDEATHSIG: Final = 1


def main(arguments: list[str]) -> None:
    """Asks the kernel for SIGTERM at the parent's death, then executes the command."""
    parent, *command = arguments
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() == int(parent):  # otherwise the worker was killed before prctl took effect
        os.execv(command[0], command)  # noqa: S606 - deliberately without a shell


if __name__ == "__main__":
    main(sys.argv[1:])
