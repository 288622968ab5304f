"""What the worker passes to the plugin in vLLM's process: a file, named by an environment variable."""

from pathlib import Path

from pydantic import BaseModel

from neuronmodel_api.config import WorkerConfig


class Instruction(BaseModel):
    """The worker's configuration, and where the plugin reports."""

    config: WorkerConfig
    relay: Path
    """The file to which the plugin appends its events."""

    def write(self, file: Path) -> None:
        file.touch(mode=0o600)
        file.write_text(self.model_dump_json())


def read_instruction(file: Path) -> Instruction:
    return Instruction.model_validate_json(file.read_bytes())
