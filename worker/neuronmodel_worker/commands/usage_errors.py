"""What can be wrong with the arguments of a host command, apart from the failures of `neuronmodel_worker.failures`.

Only their sentences matter: no condition of a NeuronModel shows their reasons.
"""

from pathlib import Path

from neuronmodel_api import exits
from neuronmodel_worker.failures import BadInput, WorkerFailure


class NeuronConfigInvalid(BadInput):
    """The file with NxD Inference's fields is invalid."""


class FolderRefused(BadInput):
    """A folder does not exist, or shards cannot be written to it."""


class FolderInUse(WorkerFailure):
    def __init__(self, directory: Path) -> None:
        super().__init__(
            f"Another neuronmodel command is at work in {directory}. Wait until it has ended, or name another folder."
        )


class MemoryTooSmall(WorkerFailure):
    def __init__(self, needed_bytes: int, available_bytes: int) -> None:
        super().__init__(
            f"{needed_bytes:,} bytes of memory are needed for the ranks' tensors and the buffers, and "
            f"{available_bytes:,} are available. Load fewer ranks at a time with --ranks, or use a machine with more "
            "memory."
        )


class SetDamaged(WorkerFailure):
    """How `neuronmodel verify` ends; the problems themselves were printed."""

    exit_code = exits.ARTIFACT_DAMAGED

    def __init__(self, directory: Path, problems: int) -> None:
        found = "There is 1 problem" if problems == 1 else f"There are {problems} problems"
        super().__init__(f"{found} with the shards in {directory}. Do not serve from them, and shard the model again.")
