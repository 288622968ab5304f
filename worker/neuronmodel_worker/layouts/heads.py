"""Grouped-query attention on ranks: which head of the checkpoint stands at which place, as pure integer functions.

The rules are NxD Inference's. A place that no head of the checkpoint fills is None and becomes a zero head.
"""

from dataclasses import dataclass
from typing import Literal

from neuronmodel_worker.failures import LayoutRefused

Head = int | None


@dataclass(frozen=True, slots=True)
class HeadPlan:
    """Places of query and key/value heads over all ranks, in order; rank r has the r-th equal block of each."""

    strategy: Literal["replicate", "convert"]
    query: tuple[Head, ...]
    key_value: tuple[Head, ...]


def round_up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple


def heads_fit(query: int, key_value: int, degree: int) -> bool:
    """Whether `degree` ranks can share these heads."""
    return query == key_value or degree % key_value == 0 or (key_value >= degree and key_value % degree == 0)


def place_heads(query: int, key_value: int, degree: int) -> HeadPlan:
    """Raises LayoutRefused where NxD Inference has no conversion, and says which degrees would fit."""
    if query % key_value:
        raise LayoutRefused(
            f"config.json gives {query} query heads and {key_value} key/value heads, and each key/value head must "
            "serve the same number of query heads. Check config.json."
        )
    if not heads_fit(query, key_value, degree):
        raise LayoutRefused(
            f"{key_value} key/value heads do not fit tensor parallel degree {degree}: the degree must divide them or "
            f"be a multiple of them. Degrees that fit: {_fitting_degrees(query, key_value, degree)}."
        )
    padded = round_up(query, degree)
    if degree % key_value == 0:
        return HeadPlan("replicate", _interleave(query, padded, key_value), _repeat(key_value, degree))
    padded_key_value = padded if query == key_value else key_value
    return HeadPlan("convert", _append(query, padded), _append(key_value, padded_key_value))


def _repeat(key_value: int, degree: int) -> tuple[Head, ...]:
    """Every head in place, k0 k0 … k1 k1 …, one for each rank."""
    return tuple(head for head in range(key_value) for _ in range(degree // key_value))


def _interleave(query: int, padded: int, groups: int) -> tuple[Head, ...]:
    """Zero heads after each key/value head's group of query heads, so that a group stays with its head."""
    size, zeros = query // groups, (padded - query) // groups
    return tuple(
        head for group in range(groups) for head in (*range(group * size, (group + 1) * size), *[None] * zeros)
    )


def _append(heads: int, padded: int) -> tuple[Head, ...]:
    return (*range(heads), *[None] * (padded - heads))


def _fitting_degrees(query: int, key_value: int, degree: int) -> str:
    fitting = [d for d in range(1, max(128, 2 * degree) + 1) if heads_fit(query, key_value, d)]
    return ", ".join(map(str, fitting[:12])) + (", …" if len(fitting) > 12 else "")
