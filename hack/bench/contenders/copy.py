"""`cp` of the checkpoint's files and `sync` of the copies: what the disk takes to read and write as many bytes."""

import subprocess

from hack.bench.contenders.task import Task, Timed


def prepare(task: Task) -> Timed:
    task.output.mkdir()

    def copy() -> None:
        subprocess.run(["cp", *task.source_files, task.output], check=True)
        copies = [task.output / file.name for file in task.source_files]
        subprocess.run(["sync", *copies, task.output], check=True)

    return copy
