"""Bounds, words and patterns of every field that the project wrote itself."""

from typing import Any

import pytest
from kubernetes.client.exceptions import ApiException

from tests import crd
from tests.builders import NeuronModelBuilder, neuron_model
from tests.cluster.conftest import Models
from tests.cluster.values import AMONG, VALUES

BOUNDS = {"enum", "minimum", "maximum", "pattern", "minLength", "maxLength", "maxItems", "maxProperties"}
# Members of a union, of which the smallest NeuronModel has another one set.
UNIONS = ("spec.model.source", "spec.artifacts")
OUTSIDE_UNIONS = ("spec.artifacts.retention", "spec.artifacts.verification")


@pytest.mark.parametrize("field", VALUES)
def test_values_within_the_bounds_are_taken(models: Models, field: str) -> None:
    for value in VALUES[field][0]:
        models.check(with_value(field, value))


@pytest.mark.parametrize("field", VALUES)
def test_values_outside_the_bounds_are_refused_by_the_field_s_name(models: Models, field: str) -> None:
    for value in VALUES[field][1]:
        with pytest.raises(ApiException) as refused:
            models.check(with_value(field, value))
        assert refused.value.status == 422, f"{value!r}: {refused.value.body}"
        assert field.replace("[].name", "[0].name") in str(refused.value.body), f"{value!r}: {refused.value.body}"


def test_every_bounded_field_of_the_spec_has_values() -> None:
    bounded = {
        path.removesuffix("{}")
        for path, node in crd.walk(crd.hand_written())
        if path.startswith("spec.") and BOUNDS & node.keys() and (node.get("$kubernetes") is None or "maxItems" in node)
    }
    inside_lists = {path for path in bounded if "[]" in path and path not in VALUES and path.split("[]")[0] in VALUES}
    assert bounded - inside_lists - VALUES.keys() == set()
    assert VALUES.keys() - bounded <= {"spec.prepare.nodeSelector", "spec.worker.nodeSelector"}


def with_value(field: str, value: Any) -> NeuronModelBuilder:
    model = neuron_model("smol")
    for union in UNIONS:
        if field.startswith(f"{union}.") and field not in OUTSIDE_UNIONS:
            member = field.removeprefix(f"{union}.").split(".")[0]
            model = model.with_field(union, {member: _needed(member)})
    for other, needed in AMONG.get(field, {}).items():
        model = model.with_field(other, needed)
    if field == "spec.compile.extra[].name":
        return model.with_flag(value, 1)
    return model.with_field(field, value)


def _needed(member: str) -> dict[str, str]:
    return {
        "persistentVolumeClaim": {"claimName": "x"},
        "hostPath": {"path": "/x"},
        "huggingFace": {"repository": "org/model"},
        "s3": {"uri": "s3://models/llama"},
        "template": {"size": "1Gi"},
    }[member]
