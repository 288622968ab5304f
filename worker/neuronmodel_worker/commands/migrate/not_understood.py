"""What is wrong with a text that is to be read as a command line: always with the line where it is."""

from neuronmodel_worker.failures import BadInput


class NotUnderstood(BadInput):
    """Of the text; `line` counts from 1."""

    def __init__(self, line: int, sentence: str) -> None:
        super().__init__(f"Line {line}: {sentence}")
