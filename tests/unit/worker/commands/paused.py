"""The command `neuronmodel`, held up once some bytes are written: says so, and goes on when its input is closed."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

from neuronmodel_worker.cli import run_and_exit
from neuronmodel_worker.commands.terminal import Show

ENOUGH = 10_000


@contextmanager
def holding(*_: Any) -> Iterator[Show]:
    announced: list[bool] = []

    def show(done: int) -> None:
        if done > ENOUGH and not announced:
            announced.append(True)
            print("writing", flush=True)
            sys.stdin.read()

    yield show


if __name__ == "__main__":
    with patch("neuronmodel_worker.commands.shard.progress", holding):
        run_and_exit()
