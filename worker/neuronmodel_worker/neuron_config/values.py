"""Values of NeuronConfig: types, defaults, and how a value is shown in a sentence."""

import reprlib
from collections.abc import Mapping
from typing import Any, Final

DTYPES: Final[Mapping[str, str]] = {"bfloat16": "BF16", "float16": "F16", "float32": "F32"}
"""NeuronConfig's names of types, with safetensors' names."""
DEFAULT_DTYPE: Final = "bfloat16"
DEFAULT_SEQUENCE_LENGTH: Final = 128


def names_of(text: str) -> frozenset[str]:
    return frozenset(text.split())


def is_one_of(value: object, values: tuple[object, ...]) -> bool:
    """Whether a value is one of `values`; True is not 1 here, unlike in Python."""
    return any(type(value) is type(each) and value == each for each in values)


def is_on(fields: Mapping[str, Any], name: str) -> bool:
    """Whether a field is set: an empty object counts as set, while 0, false and "" do not."""
    value = fields.get(name)
    return isinstance(value, dict) or bool(value)


def shown(name: str, value: object) -> str:
    return f"{name[:100]}={reprlib.repr(value)}"
