"""Changes that have to work: a field that cannot be taken back is worse than one that is missing."""

import json
from typing import Any

import pytest

from neuronmodel_api import names
from tests.builders import NeuronModelBuilder, neuron_model
from tests.cluster.conftest import API_VERSION, GROUP, Kubectl, Models

RESOURCE = f"{names.PLURAL}.{GROUP}"
SMOL = neuron_model("smol")

CHANGES = {
    "source to a host path": SMOL.with_source_host_path("/models"),
    "artifacts to a claim": SMOL.with_artifacts_claim("artifacts"),
    "scratch to a claim": SMOL.with_field("spec.scratch", {"persistentVolumeClaim": {"claimName": "nvme"}}),
    "strategy": SMOL.with_strategy("ShardOnLoad"),
    "engine": SMOL.on_cpu(),
    "degree": SMOL.with_degree(8),
    "replicas": SMOL.with_serving(replicas=2),
    "suspend": SMOL.suspended(),
    "server": SMOL.with_serving(server="VLLM"),
    "weights": SMOL.with_weights("Native"),
    "rolling": SMOL.with_serving(updateStrategy="Rolling"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_field_can_be_changed_and_changed_back(models: Models, change: str) -> None:
    models.create(SMOL)
    models.update(CHANGES[change])
    models.update(SMOL)


@pytest.mark.parametrize("change", CHANGES)
def test_server_side_apply_changes_a_field_and_changes_it_back(models: Models, kubectl: Kubectl, change: str) -> None:
    """Members of a union above all: a default stored in one would stay behind and make two."""
    apply(kubectl, models, SMOL)
    apply(kubectl, models, CHANGES[change])
    apply(kubectl, models, SMOL)
    spec = models.get("smol")["spec"]
    assert set(spec["model"]["source"]) == {"persistentVolumeClaim"}
    assert set(spec["artifacts"]) == {"template", "retention", "verification"}


def test_kubectl_apply_switches_a_member_of_a_union(models: Models, kubectl: Kubectl) -> None:
    for model in (SMOL, CHANGES["source to a host path"], CHANGES["artifacts to a claim"], SMOL):
        kubectl("apply", "-f-", stdin=document(models, model))


def test_an_autoscaler_and_a_user_do_not_fight_over_replicas(models: Models, kubectl: Kubectl) -> None:
    apply(kubectl, models, SMOL)
    kubectl("scale", f"{RESOURCE}/smol", "--replicas=3", f"--namespace={models.namespace}")
    apply(kubectl, models, SMOL.with_strategy("ShardOnLoad"))
    assert models.get("smol")["spec"]["serving"]["replicas"] == 3


def test_two_managers_keep_what_is_theirs(models: Models, kubectl: Kubectl) -> None:
    apply(kubectl, models, SMOL.with_worker(env=[{"name": "A", "value": "1"}]))
    platform = NeuronModelBuilder(
        {"kind": names.KIND, "metadata": {"name": "smol"}, "spec": {"worker": {"env": [{"name": "B", "value": "2"}]}}}
    )
    apply(kubectl, models, platform, manager="platform")
    apply(kubectl, models, SMOL.with_worker(env=[{"name": "A", "value": "3"}]))
    assert models.get("smol")["spec"]["worker"]["env"] == [{"name": "A", "value": "3"}, {"name": "B", "value": "2"}]


def test_replicas_are_what_kubectl_scale_reads_and_writes(models: Models, kubectl: Kubectl) -> None:
    models.create(SMOL)
    models.write_status("smol", {"replicas": 1, "selector": "app=smol"})
    where = f"--namespace={models.namespace}"
    path = f"/apis/{API_VERSION}/namespaces/{models.namespace}/{names.PLURAL}/smol/scale"
    scale = json.loads(kubectl("get", "--raw", path))
    assert (scale["spec"], scale["status"]) == ({"replicas": 1}, {"replicas": 1, "selector": "app=smol"})
    kubectl("scale", f"{RESOURCE}/smol", "--replicas=0", where)
    assert models.get("smol")["spec"]["serving"]["replicas"] == 0


def test_unset_fields_that_depend_on_others_are_not_stored(models: Models) -> None:
    """A stored default would hold an old object to an old choice."""
    stored: dict[str, Any] = models.check(SMOL)["spec"]
    assert stored == {
        "model": {"source": {"persistentVolumeClaim": {"claimName": "models"}}},
        "engine": "Neuron",
        "parallelism": {"tensorParallelDegree": 4, "startRank": 0},
        "artifacts": {"template": {"size": "10Gi"}, "retention": "Retain", "verification": "Quick"},
        "serving": {"port": 8000, "replicas": 1, "startTimeoutSeconds": 3600},
        "suspend": False,
    }


def test_the_largest_neuronmodel_is_taken_and_changed_within_the_cost_that_rules_may_have(models: Models) -> None:
    """The API server refuses an object whose rules cost too much to judge, whatever the definition's estimate was."""
    volumes = [{"name": f"v{i:02}-{'v' * 59}", "emptyDir": {}} for i in range(32)]
    largest = (
        SMOL.named("a" * 40)
        .with_source_claim("m" * 253, "p" * 1024)
        .with_compile(extra=[{"name": f"flag_{i:02}_{'f' * 56}", "value": "x" * 1000} for i in range(64)])
        .with_worker(
            env=[{"name": f"VARIABLE_{i:03}_{'V' * 240}", "value": "x" * 100} for i in range(128)],
            volumes=volumes,
            volumeMounts=[{"name": v["name"], "mountPath": f"/{v['name']}{'/m' * 220}"} for v in volumes],
            resourceClaims=[{"name": f"c{i:02}-{'c' * 59}", "resourceClaimName": "c" * 253} for i in range(16)],
            podLabels={f"{'l' * 200}.example.com/label-{i:02}": "x" * 63 for i in range(64)},
            podAnnotations={f"{'l' * 200}.example.com/label-{i:02}": "x" * 1000 for i in range(64)},
        )
    )
    models.create(largest)
    models.update(largest.with_strategy("ShardOnLoad"))


def apply(kubectl: Kubectl, models: Models, model: NeuronModelBuilder, manager: str = "user") -> None:
    kubectl("apply", "--server-side", f"--field-manager={manager}", "-f-", stdin=document(models, model))


def document(models: Models, model: NeuronModelBuilder) -> str:
    return json.dumps(model.with_field("apiVersion", API_VERSION).in_namespace(models.namespace).build())
