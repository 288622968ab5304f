"""The definition in crds/, as tests walk it."""

from collections.abc import Iterator
from typing import Any, Final

import yaml

from tests.paths import PROJECT

CRD_FILE: Final = PROJECT / "crds" / "neuronmodels.yaml"
SOURCE_FILE: Final = PROJECT / "hack" / "schema" / "neuronmodels.yaml"

Schema = dict[str, Any]


def definition() -> Schema:
    loaded: Schema = yaml.safe_load(CRD_FILE.read_text())
    return loaded


def schema_of(crd: Schema) -> Schema:
    (version,) = crd["spec"]["versions"]
    schema: Schema = version["schema"]["openAPIV3Schema"]
    return schema


def hand_written() -> Schema:
    """The schema without what is filled in from Kubernetes: where it begins, there is a `$kubernetes`."""
    return schema_of(yaml.safe_load(SOURCE_FILE.read_text()))


def walk(schema: Schema, path: str = "") -> Iterator[tuple[str, Schema]]:
    """Every node with its path: `spec.worker.env[].name`, `spec.worker.podLabels{}`; the root's is empty."""
    yield path, schema
    for name, child in schema.get("properties", {}).items():
        yield from walk(child, f"{path}.{name}" if path else name)
    if isinstance(schema.get("items"), dict):
        yield from walk(schema["items"], f"{path}[]")
    if isinstance(schema.get("additionalProperties"), dict):
        yield from walk(schema["additionalProperties"], f"{path}{{}}")
