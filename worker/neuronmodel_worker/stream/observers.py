"""Observers see bytes while they are read, so that one read serves several uses."""

from typing import Protocol

from neuronmodel_worker.checkpoint import TensorSource
from neuronmodel_worker.io.aligned import Array


class SourceObserver(Protocol):
    """Sees a checkpoint while it is read."""

    def observe(self, source: TensorSource, start: int, data: Array) -> None:
        """See the bytes of a tensor from `start` on, as uint8; every byte of every tensor that the plan reads comes
        once.

        Called by several threads at a time. `data` is valid during the call only; an exception ends the run.
        """


class FileObserver(Protocol):
    """Sees rank files while they are read."""

    def observe(self, file_name: str, position: int, data: Array) -> None:
        """See the bytes of a file from `position` on, as uint8: every byte comes once, the header of each file first.

        Called by several threads at a time. `data` is valid during the call only; an exception ends the read.
        """
