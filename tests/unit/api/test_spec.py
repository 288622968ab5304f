"""The types of neuronmodel_api and the definition in crds/ say the same, in both directions."""

import types
import typing
from collections.abc import Iterator
from enum import StrEnum
from typing import Any, Literal

import pytest
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from neuronmodel_api.spec import NeuronModelSpec
from neuronmodel_api.status import NeuronModelStatus
from tests import crd

PARTS: dict[str, type[BaseModel]] = {"spec": NeuronModelSpec, "status": NeuronModelStatus}
SCHEMA = crd.schema_of(crd.definition())

# Members of a union: a stored default there would outlive a switch to another member, so it is only described.
DESCRIBED_DEFAULTS = {
    "spec.model.source.persistentVolumeClaim.path": "",
    "spec.artifacts.template.accessModes": ("ReadWriteOnce",),
    "spec.scratch.ephemeral.accessModes": ("ReadWriteOnce",),
}
# Words that later versions add to: the definition takes any.
OPEN_WORDS = {"status.conditions[].type"}
# A start has no clean-up in it.
FEWER_WORDS = {"status.starts[].phases[].stage": {"Prepare", "Serve"}}
# A status is written whole by the operator: the definition asks for a message that the type lets be empty.
ALWAYS_WRITTEN = {"status.conditions[].message"}


def fields(model: type[BaseModel], path: str) -> Iterator[tuple[str, FieldInfo]]:
    """Every field by its path in JSON, through lists and optional members."""
    for name, field in model.model_fields.items():
        here = f"{path}.{field.alias or name}"
        yield here, field
        inner, listed = nested(field.annotation)
        if inner is not None:
            yield from fields(inner, f"{here}[]" if listed else here)


def nested(annotation: Any) -> tuple[type[BaseModel] | None, bool]:
    """The model that an annotation holds, and whether a list of it."""
    options = typing.get_args(annotation) if typing.get_origin(annotation) in (types.UnionType, typing.Union) else ()
    for option in options or (annotation,):
        if isinstance(option, type) and not typing.get_origin(option) and issubclass(option, BaseModel):
            return option, False
        if typing.get_origin(option) is tuple:
            return nested(typing.get_args(option)[0])[0], True
    return None, False


def words(annotation: Any) -> set[str] | None:
    """Of an enumeration, also an optional one."""
    for option in typing.get_args(annotation) or (annotation,):
        if isinstance(option, type) and issubclass(option, StrEnum):
            return {each.value for each in option}
        if typing.get_origin(option) is Literal:
            return set(typing.get_args(option))
    return set(typing.get_args(annotation)) if typing.get_origin(annotation) is Literal else None


TYPED = [(path, field) for part, model in PARTS.items() for path, field in fields(model, part)]
DEFINED = {path: node for path, node in crd.walk(SCHEMA) if path.startswith(("spec.", "status."))}


def passed_through() -> set[str]:
    """Where Kubernetes' own schema begins, and maps: the types hold those as they stand."""
    return {
        path for path, node in crd.walk(crd.hand_written()) if "$kubernetes" in node or "additionalProperties" in node
    }


def test_types_and_definition_have_the_same_fields() -> None:
    borders = tuple(f"{path}{more}" for path in passed_through() for more in (".", "[", "{"))
    defined = {path for path in DEFINED if not path.startswith(borders) and not path.endswith(("[]", "{}"))}
    assert {path for path, _ in TYPED} == defined


@pytest.mark.parametrize(("path", "field"), TYPED, ids=[path for path, _ in TYPED])
def test_a_field_is_required_defaulted_and_limited_alike(path: str, field: FieldInfo) -> None:
    parent, _, name = path.rpartition(".")
    above = SCHEMA["properties"][parent] if parent in PARTS else DEFINED[parent]
    required = name in above.get("required", ())
    assert required == (field.is_required() or path in ALWAYS_WRITTEN)
    if path in DESCRIBED_DEFAULTS:
        assert field.default == DESCRIBED_DEFAULTS[path]
        assert "default" not in DEFINED[path]
    elif path not in ALWAYS_WRITTEN and nested(field.annotation) == (None, False):
        assert DEFINED[path].get("default") == stored_default(field)
    if (expected := words(field.annotation)) and path not in OPEN_WORDS:
        assert set(DEFINED[path].get("enum", ())) == FEWER_WORDS.get(path, expected)


def stored_default(field: FieldInfo) -> Any:
    """Of a scalar; an absent list or map is an empty one, and nothing is stored."""
    default = None if field.is_required() else field.get_default(call_default_factory=True)
    return None if default in (None, (), {}) else default


def test_a_spec_of_every_default_reads_the_same_from_the_api_server_and_from_the_types() -> None:
    """What the definition stores is what the types assume where nothing is stored."""
    least = {
        "model": {"source": {"persistentVolumeClaim": {"claimName": "models"}}},
        "parallelism": {"tensorParallelDegree": 4},
        "artifacts": {"template": {"size": "1Gi"}},
    }
    assert NeuronModelSpec.model_validate(defaulted(least, SCHEMA["properties"]["spec"])) == (
        NeuronModelSpec.model_validate(least)
    )


def defaulted(value: Any, node: crd.Schema) -> Any:
    """As the API server does it."""
    if not isinstance(value, dict):
        return value
    absent = {
        name: child["default"]
        for name, child in node.get("properties", {}).items()
        if "default" in child and name not in value
    }
    return {
        name: defaulted(each, node.get("properties", {}).get(name, {})) for name, each in {**value, **absent}.items()
    }
