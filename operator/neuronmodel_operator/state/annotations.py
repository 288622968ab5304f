"""Annotations in which the operator remembers things on the objects that it creates: it has no other storage, and
`status` is for users."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, TypeVar

from pydantic import ValidationError

from neuronmodel_api import names
from neuronmodel_api.config import Strategy
from neuronmodel_api.model import Tolerant
from neuronmodel_api.report import Result
from neuronmodel_api.status import Cause

SPEC_HASH: Final = f"{names.GROUP}/spec-hash"
"""On a Deployment: the hash of what the NeuronModel asked for and of what `prepare` returned. As long as it is the
same, the pod template in RENDERED is kept, whatever the operator's version or configuration would render now."""
RENDERED: Final = f"{names.GROUP}/rendered"
"""On a Deployment: JSON of the pod template as it was applied, to revert changes that somebody makes."""
PREPARED: Final = f"{names.GROUP}/prepared"
"""On a Deployment: JSON of a `Prepared`. A finished Job that vanished is not run again while this is set."""
PREPARED_ON: Final = f"{names.GROUP}/prepared-on"
"""On a Deployment: the UID of the claim that it was prepared on; a new claim of the same name contains nothing of
it."""
FAILURES: Final = f"{names.GROUP}/failures"
"""On a Job: how many attempts at its inputs failed in a row before it; the pause before the next one grows with it."""
TRIES_IMAGE: Final = f"{names.GROUP}/tries-image"
"""On a Job: the image that it runs to test, before a worker that answers is replaced by one with that image."""
INSTANCE_TYPE: Final = f"{names.GROUP}/instance-type"
"""On a Job: the instance type that it prepares for; its own pod may run on another one."""
NUDGED: Final = f"{names.GROUP}/nudged"
"""On a Deployment whose pods are refused: a changing value wakes its controller, which would wait up to 16 minutes."""


T = TypeVar("T", bound=Tolerant)


class Prepared(Tolerant):
    """The result of an attempt of `prepare`, and the inputs that it is for."""

    inputs_hash: str
    attempt: int
    result: Result
    source_hash: str | None = None
    """Of the repository or the bucket, and of the restart, that its revision was resolved for; None for a volume."""

    @property
    def strategy(self) -> Strategy:
        """The strategy by which a worker made from it serves; never Auto."""
        if self.result.strategy and self.result.strategy is not Strategy.AUTO:
            return self.result.strategy
        return Strategy.SHARD_ON_COMPILE if self.result.shards_key else Strategy.SHARD_ON_LOAD

    def to_json(self) -> dict[str, object]:
        """Returns JSON without empty lists and without unset fields of sizing, so that what an earlier version stored
        stays the same byte for byte."""
        encoded: dict[str, Any] = super().to_json()
        result = {name: value for name, value in encoded["result"].items() if value != []}
        if self.result.sizing:
            result["sizing"] = self.result.sizing.model_dump(mode="json", by_alias=True, exclude_defaults=True)
        return encoded | {"result": result}


class Change(Tolerant):
    """Why an object was created, and when the operator first observed the cause. If `cause` is None, no start counts
    from it (the object was created while suspended)."""

    cause: Cause | None
    observed_at: datetime
    target: str
    """Hash of what the NeuronModel asked for at that time."""


@dataclass(frozen=True)
class Remembered:
    """The annotations of one object, parsed."""

    values: Mapping[str, str]

    @property
    def change(self) -> Change | None:
        return _parse(Change, self.values.get(names.ANNOTATION_CHANGE))

    @property
    def prepared(self) -> Prepared | None:
        return _parse(Prepared, self.values.get(PREPARED))

    @property
    def prepared_on(self) -> str | None:
        return self.values.get(PREPARED_ON)

    def number(self, key: str, default: int) -> int:
        value = self.values.get(key, "")
        return int(value) if value.isdecimal() else default


def encode(value: Tolerant) -> str:
    return json.dumps(value.to_json(), separators=(",", ":"), sort_keys=True)


def _parse(kind: type[T], raw: str | None) -> T | None:
    """Returns None for a value that somebody corrupted: it is derived again."""
    try:
        return kind.model_validate_json(raw) if raw else None
    except ValidationError:
        return None
