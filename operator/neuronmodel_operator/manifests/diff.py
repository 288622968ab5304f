"""Whether an object as it exists still is what we would apply: an apply that changes nothing is a write saved."""

from collections.abc import Mapping, Sequence
from typing import Any

from neuronmodel_operator.manifests.quantities import parse_quantity
from neuronmodel_operator.state.observed import Object
from neuronmodel_operator.state.plan import Manifest


def is_as_wanted(existing: Object | None, wanted: Manifest) -> bool:
    """What the API server or others added beside is nobody's drift."""
    return existing is not None and _covers(existing, {k: v for k, v in wanted.items() if k not in _TYPE_FIELDS})


_TYPE_FIELDS = ("apiVersion", "kind")


def _covers(existing: Any, wanted: Any) -> bool:
    if isinstance(wanted, Mapping):
        found = existing if isinstance(existing, Mapping) else {}
        return (isinstance(existing, Mapping) or not wanted) and all(
            _covers(found.get(k), v) for k, v in wanted.items()
        )
    if isinstance(wanted, Sequence) and not isinstance(wanted, str):
        return _covers_list(existing or [], wanted)
    if not wanted and not existing:
        return True  # the API server leaves out what is empty
    return bool(existing == wanted) or _is_same_quantity(existing, wanted)


def _covers_list(existing: Any, wanted: Sequence[Any]) -> bool:
    """By content, as lists that are maps to the API server may be in any order."""
    return isinstance(existing, Sequence) and all(any(_covers(found, item) for found in existing) for item in wanted)


def _is_same_quantity(existing: Any, wanted: Any) -> bool:
    """The API server writes 1000m as 1."""
    if not isinstance(existing, str) or not isinstance(wanted, str):
        return False
    number = parse_quantity(wanted)
    return number is not None and number == parse_quantity(existing)
