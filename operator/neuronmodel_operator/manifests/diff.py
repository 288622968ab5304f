"""The first difference between an object as it exists and as it is wanted: what has none is not applied again."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from neuronmodel_api import names
from neuronmodel_operator.manifests.quantities import parse_quantity
from neuronmodel_operator.state.observed import Object
from neuronmodel_operator.state.plan import Manifest

_TYPE_FIELDS: Final = ("apiVersion", "kind")
_LIST_KEYS: Final = ("name", "mountPath", "containerPort", "key")
"""Fields by which an item of a list is known, in the order in which they are tried."""


def diff(existing: Object | None, wanted: Manifest) -> str | None:
    """Return the path of the first field of `wanted` that `existing` lacks or has with another value.

    None means that `existing` is as wanted. Fields that the API server or somebody else added are no difference, and
    lists are compared by content, as the API server may keep those that are maps in any order. The path of an object
    that does not exist is empty.
    """
    if existing is None:
        return ""
    return _diff(existing, {key: value for key, value in wanted.items() if key not in _TYPE_FIELDS}, "")


def template_diff(former: Manifest, wanted: Manifest) -> str | None:
    """Return the path of the first field in which two pod templates differ, apart from the hash that both carry.

    Fields of the worker's configuration are named one by one. Values are never part of it: an environment variable
    may hold a secret.
    """
    before, after = _without_hash(former), _without_hash(wanted)
    return _diff(before, after, "") or _diff(after, before, "")


def _diff(existing: Any, wanted: Any, path: str) -> str | None:
    if isinstance(wanted, Mapping):
        if not isinstance(existing, Mapping):
            return path if wanted else None
        fields = ((_diff(existing.get(key), value, _field(path, key))) for key, value in wanted.items())
        return next((found for found in fields if found is not None), None)
    if isinstance(wanted, Sequence) and not isinstance(wanted, str):
        return _diff_list(existing or [], wanted, path)
    if not wanted and not existing:
        return None  # the API server leaves out what is empty
    return None if existing == wanted or _is_same_quantity(existing, wanted) else path


def _diff_list(existing: Any, wanted: Sequence[Any], path: str) -> str | None:
    if not isinstance(existing, Sequence):
        return path
    for item in wanted:
        if all(_diff(found, item, "") is not None for found in existing):
            return _diff_item(existing, item, path)
    return None


def _diff_item(existing: Sequence[Any], item: Any, path: str) -> str:
    """Return the path of an item that is missing, or of what differs in the item of the same name."""
    key = next((key for key in _LIST_KEYS if isinstance(item, Mapping) and key in item), None)
    if key is None:
        return path
    here = f"{path}[{item[key]}]"
    found = next((each for each in existing if isinstance(each, Mapping) and each.get(key) == item[key]), None)
    return (_diff(found, item, here) if found is not None else None) or here


def _field(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key


def _is_same_quantity(existing: Any, wanted: Any) -> bool:
    """The API server writes 1000m as 1."""
    if not isinstance(existing, str) or not isinstance(wanted, str):
        return False
    number = parse_quantity(wanted)
    return number is not None and number == parse_quantity(existing)


def _without_hash(template: Manifest) -> Manifest:
    """Return the template without its hash, and with the worker's configuration as an object."""
    metadata, spec = dict(template.get("metadata") or {}), dict(template["spec"])
    annotations = metadata.get("annotations") or {}
    metadata["annotations"] = {k: v for k, v in annotations.items() if k != names.ANNOTATION_TEMPLATE_HASH}
    spec["containers"] = [
        {**container, "env": [_opened(variable) for variable in container.get("env") or ()]}
        for container in spec["containers"]
    ]
    return {"spec": spec, "metadata": metadata}


def _opened(variable: Manifest) -> Manifest:
    if variable["name"] != names.ENV_CONFIG:
        return variable
    config = json.loads(variable["value"])
    return {**variable, "value": {key: value for key, value in config.items() if key != "specHash"}}
