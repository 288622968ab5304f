"""What is wrong with a text that should be a command line, always with a line number."""

from neuronmodel_worker.failures import BadInput


class NotUnderstood(BadInput):
    """The text cannot be converted; `line` counts from 1."""

    def __init__(self, line: int, sentence: str) -> None:
        super().__init__(f"Line {line}: {sentence}")
