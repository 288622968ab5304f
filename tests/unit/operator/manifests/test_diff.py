"""What the API server fills in is no drift, what others changed is. The objects in observed/ are as
`kubectl get -o json` gave them on a Kubernetes 1.34 cluster, of a NeuronModel that served."""

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest

from neuronmodel_api import names
from neuronmodel_api.spec import ClaimTemplate
from neuronmodel_operator.cluster.observe import parse_model
from neuronmodel_operator.manifests.deployment import deployment, stored
from neuronmodel_operator.manifests.diff import diff, template_diff
from neuronmodel_operator.manifests.pvc import artifacts_claim
from neuronmodel_operator.manifests.service import service
from neuronmodel_operator.state.plan import Manifest
from tests.paths import PROJECT

Object = dict[str, Any]
STAMP = "2026-01-01T00:00:00Z"


def observed(name: str) -> Object:
    found: Object = json.loads((PROJECT / "tests/unit/operator/observed" / f"{name}.json").read_text())
    return found


MODEL = parse_model(observed("model"))


def wanted_deployment(replicas: int = 1) -> Manifest:
    template = stored(observed("deployment"))
    assert template is not None
    return deployment(MODEL, template, replicas, {})


def wanted_claim(size: str = "2Gi") -> Manifest:
    return artifacts_claim(MODEL, ClaimTemplate(size=size), observed("claim"))


WANTED: dict[str, Callable[[], Manifest]] = {
    "deployment": wanted_deployment,
    "service": lambda: service(MODEL),
    "claim": wanted_claim,
}


@pytest.mark.parametrize("name", sorted(WANTED))
def test_what_the_api_server_fills_in_is_no_drift(name: str) -> None:
    assert diff(observed(name), WANTED[name]()) is None


def at(path: str, value: Any) -> Callable[[Object], None]:
    """Sets what a dotted path leads to; numbers are places in lists, None removes."""

    def edit(o: Any) -> None:
        *parents, last = [int(part) if part.isdigit() else part for part in path.split("/")]
        for parent in parents:
            o = o[parent]
        if value is None:
            del o[last]
        else:
            o[last] = value

    return edit


@pytest.mark.parametrize(
    ("name", "edit"),
    [
        ("deployment", at("spec/replicas", 2)),
        ("deployment", at("spec/strategy", {"type": "RollingUpdate"})),
        ("deployment", at("spec/template/spec/containers/0/image", "other:1")),
        ("deployment", at("spec/template/spec/containers/0/env/0/value", "{}")),
        ("deployment", at("spec/template/spec/containers/0/resources/limits/memory", "4Gi")),
        ("deployment", at("spec/template/spec/containers/0/securityContext/readOnlyRootFilesystem", False)),
        ("deployment", at("spec/template/spec/containers/0/securityContext/capabilities", None)),
        ("deployment", at("spec/template/spec/containers/0/volumeMounts/0", None)),
        ("deployment", at("spec/template/spec/containers/0/readinessProbe/periodSeconds", 5)),
        ("deployment", at("spec/template/spec/automountServiceAccountToken", True)),
        ("deployment", at("metadata/labels", {})),
        ("deployment", at("metadata/ownerReferences", [])),
        ("service", at("spec/ports/0/port", 9000)),
        ("service", at("spec/ports/0/targetPort", 8000)),
        ("service", at("spec/selector", {"app": "mine"})),
        ("service", at("spec/type", "NodePort")),
        ("claim", at("metadata/labels", {})),
    ],
)
def test_what_somebody_changed_is_drift(name: str, edit: Callable[[Object], None]) -> None:
    changed = copy.deepcopy(observed(name))
    edit(changed)
    assert diff(changed, WANTED[name]())


@pytest.mark.parametrize(
    ("name", "edit"),
    [
        ("deployment", at("metadata/annotations/note", "mine")),
        ("deployment", at("spec/template/spec/containers/0/resources/limits/memory", "3072Mi")),
        ("service", at("metadata/labels/team", "mine")),
        ("claim", at("spec/resources/requests/storage", "2048Mi")),
    ],
)
def test_what_somebody_added_or_spelled_differently_is_no_difference(name: str, edit: Callable[[Object], None]) -> None:
    changed = copy.deepcopy(observed(name))
    edit(changed)
    assert diff(changed, WANTED[name]()) is None


@pytest.mark.parametrize(
    ("asked", "requested"),
    [("5Gi", "5Gi"), ("2049Mi", "2049Mi"), ("1Gi", "2Gi"), ("2048Mi", "2048Mi"), ("1.5Gi", "2Gi")],
)
def test_a_claim_grows_and_never_shrinks(asked: str, requested: str) -> None:
    wanted = wanted_claim(asked)
    assert wanted["spec"]["resources"]["requests"]["storage"] == requested
    assert (diff(observed("claim"), wanted) is None) == (requested in ("2Gi", "2048Mi"))


def test_what_is_immutable_in_a_claim_stays_as_it_exists() -> None:
    template = ClaimTemplate(size="2Gi", storage_class_name="other", access_modes=("ReadWriteMany",))
    assert diff(observed("claim"), artifacts_claim(MODEL, template, observed("claim"))) is None


def test_what_another_version_wrote_into_a_status_takes_nothing_else_with_it() -> None:
    raw = observed("model")
    condition = {"type": "OfTomorrow", "status": "True", "reason": "New", "message": "", "lastTransitionTime": STAMP}
    start = {"id": "u/0", "cause": "Created", "outcome": "Ready", "startedAt": STAMP}
    read = parse_model(raw | {"status": {"conditions": [condition], "starts": [start], "lastLoad": "1.0s"}}).status
    assert (read.conditions, read.last_load, [one.id for one in read.starts]) == ((), "1.0s", ["u/0"])


@pytest.mark.parametrize(
    ("name", "edit", "path"),
    [
        ("deployment", at("spec/replicas", 2), "spec.replicas"),
        (
            "deployment",
            at("spec/template/spec/containers/0/resources/limits/memory", "4Gi"),
            "spec.template.spec.containers[worker].resources.limits.memory",
        ),
        (
            "deployment",
            at("spec/template/spec/containers/0/securityContext/capabilities", None),
            "spec.template.spec.containers[worker].securityContext.capabilities",
        ),
        ("service", at("spec/ports/0/port", 9000), "spec.ports[http].port"),
        ("service", at("spec/ports", None), "spec.ports[http]"),
        ("claim", at("metadata/labels", {}), "metadata.labels.neuronmodel.dev/model"),
    ],
)
def test_the_first_difference_is_named(name: str, edit: Callable[[Object], None], path: str) -> None:
    changed = copy.deepcopy(observed(name))
    edit(changed)
    assert diff(changed, WANTED[name]()) == path


def test_what_does_not_exist_differs() -> None:
    assert diff(None, service(MODEL)) == ""


def configured(**fields: Any) -> Callable[[Object], None]:
    """Changes fields of the worker's configuration in a pod template; None removes one."""

    def edit(o: Any) -> None:
        variable = next(v for v in o["spec"]["containers"][0]["env"] if v["name"] == names.ENV_CONFIG)
        config = json.loads(variable["value"]) | fields
        variable["value"] = json.dumps({key: value for key, value in config.items() if value is not None})

    return edit


@pytest.mark.parametrize(
    ("edit", "path"),
    [
        (at("spec/containers/0/image", "other:1"), "spec.containers[worker].image"),
        (configured(shardsKey="another"), "spec.containers[worker].env[NEURONMODEL_CONFIG].value.shardsKey"),
        (configured(ofTomorrow=1), "spec.containers[worker].env[NEURONMODEL_CONFIG].value.ofTomorrow"),
        (configured(compiledKey=None), "spec.containers[worker].env[NEURONMODEL_CONFIG].value.compiledKey"),
        (at("spec/nodeSelector", {"disk": "nvme"}), "spec.nodeSelector"),
        (at("metadata/annotations/neuronmodel.dev~restart", "now"), "metadata.annotations.neuronmodel.dev~restart"),
    ],
)
def test_what_differs_between_two_pod_templates_is_named_wherever_it_stands(
    edit: Callable[[Object], None], path: str
) -> None:
    template = stored(observed("deployment"))
    assert template is not None
    changed = copy.deepcopy(template.manifest)
    edit(changed)
    configured(specHash="another")(changed)
    changed["metadata"]["annotations"][names.ANNOTATION_TEMPLATE_HASH] = "another"
    assert template_diff(template.manifest, changed) == path


def test_values_of_variables_are_never_shown() -> None:
    template = stored(observed("deployment"))
    assert template is not None
    changed = copy.deepcopy(template.manifest)
    changed["spec"]["containers"][0]["env"].append({"name": "TOKEN", "value": "secret"})
    assert template_diff(template.manifest, changed) == "spec.containers[worker].env[TOKEN]"
