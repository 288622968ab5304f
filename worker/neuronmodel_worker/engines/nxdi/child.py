"""`python -m neuronmodel_worker.engines.nxdi.child`: compiles or shards with the library in a process of its own.

The library's caches are process-wide and keyed by a parameter's name alone: a second checkpoint in the same process
would get the first one's weights. And the memory that it allocates, or a compiler that hangs, ends with the process.

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
        run_task(instruction)
    except WorkerFailure as failure:
        Path(instruction["outcome"]).write_text(json.dumps({"reason": failure.reason, "message": str(failure)}))
        return failure.exit_code
    finally:
        os.kill(guard, signal.SIGKILL)
        os.waitpid(guard, 0)
    return 0


def run_task(instruction: dict[str, Any]) -> None:
    """Compile or shard. Raises a BadInput, and whatever the library raises."""
    application = make_application(instruction["model_type"], instruction["source"], instruction["fields"])
    directory = library_path(Path(instruction["directory"]))
    if instruction["task"] == COMPILE:
        application.compile(directory)
    else:
        application.shard_weights(directory)


def die_with_parent() -> int:
    """Start a guard process that kills the group when stdin ends. Returns its ID. A thread could not do this, because a
    compiler may hold the interpreter's lock for minutes. The guard closes stdout and stderr, whose end the parent waits
    for."""
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
