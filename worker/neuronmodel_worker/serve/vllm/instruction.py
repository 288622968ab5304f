"""What the worker hands to the plugin in vLLM's process: a file, which a variable of the environment names."""

from pathlib import Path

from pydantic import BaseModel

from neuronmodel_api.config import WorkerConfig


class Instruction(BaseModel):
    config: WorkerConfig
    relay: Path
    """Where to tell of what happens."""

    def write(self, file: Path) -> None:
        file.touch(mode=0o600)
        file.write_text(self.model_dump_json())


def read_instruction(file: Path) -> Instruction:
    return Instruction.model_validate_json(file.read_bytes())
