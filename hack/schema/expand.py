"""Fills the schemas that are Kubernetes' own into the hand-written definition, as structural schemas."""

import copy
import re
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Schema = dict[str, Any]

CORE = "io.k8s.api.core.v1."
QUANTITY = "io.k8s.apimachinery.pkg.api.resource.Quantity"
INT_OR_STRING = "io.k8s.apimachinery.pkg.util.intstr.IntOrString"
OBJECT_META = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"

# What the API server itself takes for a quantity.
QUANTITY_PATTERN = (
    r"^(\+|-)?(([0-9]+(\.[0-9]*)?)|(\.[0-9]+))(([KMGTPE]i)|[numkMGTPE]|([eE](\+|-)?(([0-9]+(\.[0-9]*)?)|(\.[0-9]+))))?$"
)
QUANTITY_SCHEMA: Schema = {
    "anyOf": [{"type": "integer"}, {"type": "string"}],
    "pattern": QUANTITY_PATTERN,
    "x-kubernetes-int-or-string": True,
}
INT_OR_STRING_SCHEMA: Schema = {
    "anyOf": [{"type": "integer"}, {"type": "string"}],
    "x-kubernetes-int-or-string": True,
}
# A claim template inside a volume takes these two and no other metadata.
OBJECT_META_SCHEMA: Schema = {
    "type": "object",
    "properties": {
        "annotations": {
            "type": "object",
            "additionalProperties": {"type": "string"},
            "description": "Annotations of the claim.",
        },
        "labels": {"type": "object", "additionalProperties": {"type": "string"}, "description": "Labels of the claim."},
    },
}
MAX_DESCRIPTION = 62
"""Characters of a description of Kubernetes' own; `kubectl explain pod.spec` has all of it."""
PATCH_HINTS = ("x-kubernetes-patch-merge-key", "x-kubernetes-patch-strategy")


@dataclass(frozen=True)
class Kubernetes:
    """`components.schemas` of the API server's /openapi/v3/api/v1."""

    schemas: Mapping[str, Schema]

    def field(self, reference: str) -> Schema:
        """`Container.env` or `Toleration`, with every reference resolved. Raises KeyError for what is not there."""
        type_name, _, field_name = reference.partition(".")
        schema = self.schemas[CORE + type_name]
        return self._structural(schema["properties"][field_name] if field_name else schema)

    def _structural(self, schema: Schema) -> Schema:
        if "allOf" in schema:
            (target,) = schema["allOf"]
            return self._described(self._referred(target["$ref"]), schema)
        if "$ref" in schema:
            return self._described(self._referred(schema["$ref"]), schema)
        result = {key: value for key, value in schema.items() if key not in PATCH_HINTS}
        if "properties" in schema:
            result["properties"] = {name: self._structural(each) for name, each in schema["properties"].items()}
        for nested in ("items", "additionalProperties"):
            if isinstance(schema.get(nested), dict):
                result[nested] = self._without_description(self._structural(schema[nested]))
        return self._tidy(result)

    def _referred(self, reference: str) -> Schema:
        name = reference.rsplit("/", 1)[-1]
        special = {QUANTITY: QUANTITY_SCHEMA, INT_OR_STRING: INT_OR_STRING_SCHEMA, OBJECT_META: OBJECT_META_SCHEMA}
        if name in special:
            return copy.deepcopy(special[name])
        return self._structural(self.schemas[name])

    @staticmethod
    def _described(target: Schema, at: Schema) -> Schema:
        return _tidy_description({**target, "description": at.get("description", target.get("description", ""))})

    @staticmethod
    def _without_description(schema: Schema) -> Schema:
        return {key: value for key, value in schema.items() if key != "description"}

    def _tidy(self, schema: Schema) -> Schema:
        schema.pop("x-kubernetes-group-version-kind", None)
        if schema.get("default") in ({}, ""):
            self._drop_empty_default(schema)
        return _tidy_description(schema)

    @staticmethod
    def _drop_empty_default(schema: Schema) -> None:
        """An empty default says only that Go's zero value is meant; a required field must not be defaulted away."""
        del schema["default"]


def _tidy_description(schema: Schema) -> Schema:
    if "description" in schema:
        schema["description"] = first_sentence(schema["description"])
    return schema


def first_sentence(text: str) -> str:
    """Kubernetes' descriptions are long, and an object has to fit kubectl's annotation of 256 KiB."""
    paragraph = re.sub(r"\s+", " ", text.split("\n\n")[0]).strip().removeprefix("Required. ")
    match = re.match(r"(.*?(?<!i\.e)(?<!e\.g)(?<!etc)[.!])(?: [A-Z`\"'(]|$)", paragraph)
    return textwrap.shorten((match[1] if match else paragraph).rstrip(":"), MAX_DESCRIPTION, placeholder=" …")


def expand(node: Any, kubernetes: Kubernetes) -> Any:
    """Replaces each `$kubernetes` by what it names; what is written next to it wins, level by level. `$described` has,
    by the name of a field in it or "" for all of it, what takes the place of the descriptions below, where another
    field has them already."""
    if isinstance(node, list):
        return [expand(each, kubernetes) for each in node]
    if not isinstance(node, dict):
        return node
    own = {key: expand(value, kubernetes) for key, value in node.items() if not key.startswith("$")}
    if "$kubernetes" not in node:
        return own
    taken = kubernetes.field(node["$kubernetes"])
    if "$keep" in node:
        _keep(taken, node["$keep"])
    for path in node.get("$drop", ()):
        _drop(taken, path.split("."))
    for name, text in node.get("$described", {}).items():
        _describe(_properties(taken)[name] if name else taken, text)
    return merge(taken, own)


def merge(under: Any, over: Any) -> Any:
    if not (isinstance(under, dict) and isinstance(over, dict)):
        return over
    return {**under, **{key: merge(under[key], value) if key in under else value for key, value in over.items()}}


def _properties(schema: Schema) -> Schema:
    properties: Schema = schema["items"]["properties"] if "items" in schema else schema["properties"]
    return properties


def _keep(schema: Schema, names: list[str]) -> None:
    properties = _properties(schema)
    missing = set(names) - set(properties)
    if missing:
        raise KeyError(f"$keep names fields that Kubernetes does not have: {', '.join(sorted(missing))}")
    for name in set(properties) - set(names):
        del properties[name]


def _describe(node: Any, text: str) -> None:
    for name, child in node.items():
        if name == "properties":
            for each in child.values():
                each["description"] = text
                _describe(each, text)
        elif name == "items":
            _describe(child, text)


def _drop(schema: Schema, path: list[str]) -> None:
    """A field that is not there in this version of Kubernetes needs no dropping."""
    *parents, last = path
    for name in parents:
        schema = _properties(schema)[name]
    _properties(schema).pop(last, None)
