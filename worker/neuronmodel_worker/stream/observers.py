"""Who is shown bytes on their way: one read, several uses."""

from typing import Protocol

from neuronmodel_worker.checkpoint import TensorSource
from neuronmodel_worker.stream.dtypes import Array


class SourceObserver(Protocol):
    """Is shown a checkpoint while it is read."""

    def observe(self, source: TensorSource, start: int, data: Array) -> None:
        """The bytes of a tensor from `start` on, as uint8; every byte of every tensor that the plan reads comes once.

        Called by several threads at a time. `data` may be used during the call only; what is raised ends the run.
        """


class FileObserver(Protocol):
    """Is shown rank files while they are read."""

    def observe(self, file_name: str, position: int, data: Array) -> None:
        """The bytes of a file from `position` on, as uint8: every byte once, of each file those before the tensors
        first.

        Called by several threads at a time. `data` may be used during the call only; what is raised ends the reading.
        """
