"""The names that people give sources on a network. What reads a network is not imported for one."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any, ClassVar, Self


class SourceAddress(ABC):
    """What `--model` and `--source` take; `str` of it is that text."""

    SCHEME: ClassVar[str]
    FORM: ClassVar[str]
    """How one is written, for a sentence with all that can be written."""
    RIGHT: ClassVar[str]
    """What a NeuronModel with such a source may need to read it, as sentences for a comment."""

    @classmethod
    @abstractmethod
    def parse(cls, text: str) -> Self:
        """Parses what begins with SCHEME. Raises ValueError with a sentence, which has no secret."""

    @property
    @abstractmethod
    def named_after(self) -> PurePosixPath:
        """What the name of a NeuronModel is made from."""

    @abstractmethod
    def member(self, environment: Mapping[str, str]) -> dict[str, Any]:
        """Returns the source as `spec.model.source` has it, by the name of its member; `environment` may say more."""
