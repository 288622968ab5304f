"""`python -m neuronmodel_worker.engines.nxdi.child`: what the library does in a process of its own.

Its caches are process-wide and keyed by a parameter's name alone: a second checkpoint in the same process would get the
first one's weights. And what it allocates, or a compiler of its own that hangs, goes with the process.

One line of JSON comes on stdin, which stays open as long as the parent lives: when it ends, the whole process group is
killed, compilers included.
"""

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from neuronmodel_worker.engines.nxdi.application import make_application
from neuronmodel_worker.engines.nxdi.load_directory import library_path
from neuronmodel_worker.failures import WorkerFailure

COMPILE = "compile"
SHARD = "shard"


def main() -> int:
    instruction = json.loads(sys.stdin.buffer.readline())
    guard = die_with_parent()
    try:
        carry_out(instruction)
    except WorkerFailure as failure:
        Path(instruction["outcome"]).write_text(json.dumps({"reason": failure.reason, "message": str(failure)}))
        return failure.exit_code
    finally:
        os.kill(guard, signal.SIGKILL)
        os.waitpid(guard, 0)
    return 0


def carry_out(instruction: dict[str, Any]) -> None:
    """Raises a BadInput, and whatever the library raises."""
    application = make_application(instruction["model_type"], instruction["source"], instruction["fields"])
    directory = library_path(Path(instruction["directory"]))
    if instruction["task"] == COMPILE:
        application.compile(directory)
    else:
        application.shard_weights(directory)


def die_with_parent() -> int:
    """The process that waits for the end of stdin, by its id: a thread of this one would wait for the interpreter's
    lock, which compilers may hold for minutes. It holds neither stdout nor stderr, whose end the parent waits for."""
    guard = os.fork()
    if guard == 0:
        os.close(1)
        os.close(2)
        while os.read(0, 1 << 10):
            pass
        os.killpg(0, signal.SIGKILL)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    return guard


if __name__ == "__main__":
    sys.exit(main())
