"""Grouped-query attention on ranks: which head of the checkpoint is in which place, as pure integer functions.

The rules are NxD Inference's. A place that no head of the checkpoint fills is None and becomes a zero head.
"""

from dataclasses import dataclass
from typing import Literal

from neuronmodel_worker.failures import LayoutRefused
from neuronmodel_worker.layouts.tp_degrees import DegreeRule, require_degree

Head = int | None


@dataclass(frozen=True, slots=True)
class HeadPlan:
    """The places of query and key/value heads over all ranks, in order; rank r has the r-th equal block of each."""

    strategy: Literal["replicate", "convert"]
    query: tuple[Head, ...]
    key_value: tuple[Head, ...]


@dataclass(frozen=True, slots=True)
class CacheShape:
    """The key/value cache of one rank: a key and a value of `head_size` for every layer, head and position; zero heads
    take up as much as others."""

    layers: int
    heads: int
    head_size: int


def round_up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple


def heads_fit(query: int, key_value: int, degree: int) -> bool:
    """Whether `degree` ranks can share these heads."""
    return query == key_value or degree % key_value == 0 or (key_value >= degree and key_value % degree == 0)


def heads_rule(query: int, key_value: int) -> DegreeRule:
    """The rule that the degree fits the heads. Raises LayoutRefused for heads that fit no degree."""
    if query % key_value:
        raise LayoutRefused(
            f"config.json gives {query} query heads and {key_value} key/value heads, and each key/value head has to "
            f"serve the same number of query heads: {query} is not divisible by {key_value}. Put the checkpoint's own "
            "config.json there."
        )
    return DegreeRule(
        lambda degree: heads_fit(query, key_value, degree),
        lambda degree: (
            f"{key_value} key/value heads do not fit tensor parallel degree {degree}: the degree has to divide them or "
            "be a multiple of them."
        ),
    )


def place_heads(query: int, key_value: int, degree: int) -> HeadPlan:
    """Place the heads on `degree` ranks. Raises LayoutRefused where NxD Inference has no conversion, with the degrees
    that fit."""
    require_degree(degree, [heads_rule(query, key_value)])
    padded = round_up(query, degree)
    if degree % key_value == 0:
        repeated = tuple(head for head in range(key_value) for _ in range(degree // key_value))  # k0 k0 … k1 k1 …
        return HeadPlan("replicate", _interleave(query, padded, key_value), repeated)
    padded_key_value = padded if query == key_value else key_value
    return HeadPlan("convert", _append(query, padded), _append(key_value, padded_key_value))


def _interleave(query: int, padded: int, groups: int) -> tuple[Head, ...]:
    """Zero heads after each key/value head's group of query heads, so that each group stays with its key/value head."""
    size, zeros = query // groups, (padded - query) // groups
    return tuple(
        head for group in range(groups) for head in (*range(group * size, (group + 1) * size), *[None] * zeros)
    )


def _append(heads: int, padded: int) -> tuple[Head, ...]:
    return (*range(heads), *[None] * (padded - heads))
