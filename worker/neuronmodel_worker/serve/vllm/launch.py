"""Becomes a command that is told to end when the worker that launched it is killed.

`python -m neuronmodel_worker.serve.vllm.launch <the worker's process> <command> …`: a program of its own, because a
process with threads cannot safely run Python between its fork and the command.
"""

import ctypes
import os
import signal
import sys
from typing import Final

# <linux/prctl.h>; it survives the exec.
PR_SET_PDEATHSIG: Final = 1


def main(arguments: list[str]) -> None:
    parent, *command = arguments
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() == int(parent):  # else it was killed before it could be heard of
        os.execv(command[0], command)  # noqa: S606 - there is no shell in between on purpose


if __name__ == "__main__":
    main(sys.argv[1:])
