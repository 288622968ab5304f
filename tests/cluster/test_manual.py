"""`kubectl explain` reads like a manual, `kubectl get` shows what matters, and the definition fits where it has to."""

import json
import re
from datetime import UTC, datetime

import pytest

from hack.schema.__main__ import CHART_COPY, CRD, PROJECT, crd_document
from hack.schema.expand import Kubernetes
from neuronmodel_api import names, status
from neuronmodel_api.conditions import ConditionType
from neuronmodel_api.config import Strategy
from neuronmodel_api.report import Stage
from tests import crd
from tests.builders import neuron_model
from tests.cluster.conftest import GROUP, Kubectl, Models

ANNOTATION_BYTES = 262_144
"""All annotations of an object together; kubectl apply keeps the last applied object in one of them."""


def test_the_definition_is_what_its_source_and_the_api_server_give(kubectl: Kubectl) -> None:
    version = json.loads(kubectl("get", "--raw", "/version"))
    if (version["major"], version["minor"]) != ("1", "34"):
        pytest.skip("the API server is not of Kubernetes 1.34, from which the schemas were taken")
    schemas = json.loads(kubectl("get", "--raw", "/openapi/v3/api/v1"))["components"]["schemas"]
    assert CRD.read_text() == crd_document(Kubernetes(schemas)), "run `python -m hack.schema`"


def test_the_chart_s_copy_is_the_definition() -> None:
    assert CHART_COPY.read_text() == CRD.read_text(), "run `python -m hack.schema`"


def test_the_definition_fits_kubectl_s_annotation_with_room_to_grow() -> None:
    assert len(json.dumps(crd.definition()).encode()) < ANNOTATION_BYTES / 2


def test_every_field_is_described() -> None:
    silent = [
        f"{path}.{name}"
        for path, node in crd.walk(crd.schema_of(crd.definition()))
        for name, child in node.get("properties", {}).items()
        if path != "metadata" and name != "metadata" and len(child.get("description", "")) < 10
    ]
    assert silent == []


@pytest.mark.usefixtures("models")
def test_kubectl_explains_every_field_that_the_project_wrote(kubectl: Kubectl) -> None:
    explained = kubectl("explain", names.PLURAL, f"--api-version={GROUP}/{names.VERSION}", "--recursive")
    for path, node in crd.walk(crd.hand_written()):
        for name in node.get("properties", {}):
            assert f"{name}\t<" in explained, f"{path}.{name}"
    field = kubectl("explain", f"{names.PLURAL}.spec.worker.nodeSelector", f"--api-version={GROUP}/{names.VERSION}")
    assert "node.kubernetes.io/instance-type: trn2.48xlarge" in " ".join(field.split())


def test_what_absence_means_is_stated_for_every_optional_field() -> None:
    """Of the spec's own scalars and lists: an object's absence is that of its fields."""
    silent = [
        f"{path}.{name}"
        for path, node in crd.walk(crd.hand_written())
        if path.startswith("spec") and "[]" not in path
        for name, child in node.get("properties", {}).items()
        if name not in node.get("required", ()) and (child.get("type") != "object" or "$kubernetes" in child)
        if path + name != "spec" and not any(word in child.get("description", "") for word in ("bsent", "efault"))
    ]
    assert silent == []


FULL_STATUS = status.NeuronModelStatus(
    observed_generation=1,
    phase=status.Phase.STARTING,
    conditions=tuple(
        status.Condition(type=kind, status="Unknown", reason="Loading", last_transition_time=datetime.now(UTC))
        for kind in ConditionType
    ),
    strategy=status.StrategyStatus(in_force=Strategy.SHARD_ON_LOAD, reason="Specified"),
    artifacts=status.ArtifactsStatus(
        claim_name="a", compiled_key="k", shards_key="s", cache=status.CacheResult.MISS, missed="m", bytes=1
    ),
    endpoint="http://smol.default.svc:8000/v1",
    image="worker:1",
    replicas=1,
    selector="a=b",
    workers=(
        status.WorkerStatus(
            pod_name="smol-1",
            node="trn2",
            stage=Stage.SERVE,
            state=status.WorkerState.STARTING,
            progress=status.WorkerProgress(
                stage=Stage.SERVE, phase="Read", started_at=datetime.now(UTC), percent=5, updated_at=datetime.now(UTC)
            ),
        ),
    ),
    progress="Read 5%",
    summary="Under way (Loading): It loads. At work: Read 5%.",
    last_load="12.3s",
    last_cache=status.CacheResult.MISS,
    starts=tuple(
        status.Start(
            id=f"u/{cause}",
            cause=cause,
            outcome=status.Outcome.READY,
            reason="Failed",
            pod_name="smol-1",
            node_name="trn2",
            strategy=Strategy.SHARD_ON_LOAD,
            cache=status.CacheResult.HIT,
            started_at=datetime.now(UTC),
            ready_at=datetime.now(UTC),
            total_milliseconds=12,
            disk=status.Disk(read_bytes_per_second=1, write_bytes_per_second=2),
            phases=(
                status.RecordedPhase(
                    stage=Stage.PREPARE,
                    name="Queued",
                    reason="QuotaExceeded",
                    started_at=datetime.now(UTC),
                    milliseconds=1,
                    busy_milliseconds=2,
                    bytes=3,
                    bytes_per_second=4,
                ),
            ),
        )
        for cause in status.Cause
    ),
)


def test_a_status_with_every_field_comes_back_as_it_was_written(models: Models) -> None:
    models.create(neuron_model("smol"))
    written = models.write_status("smol", FULL_STATUS.to_json())
    assert status.NeuronModelStatus.model_validate(written["status"]) == FULL_STATUS


def test_kubectl_get_shows_what_matters(models: Models, kubectl: Kubectl) -> None:
    models.create(neuron_model("smol"))
    models.write_status("smol", FULL_STATUS.to_json())
    get = ("get", f"{names.PLURAL}.{GROUP}", f"--namespace={models.namespace}")
    head, line = kubectl(*get).splitlines()
    assert head.split() == ["NAME", "READY", "REASON", "PROGRESS", "STRATEGY", "CACHE", "LOAD", "NODE", "AGE"]
    assert line.split()[:-1] == ["smol", "Unknown", "Loading", "Read", "5%", "ShardOnLoad", "Miss", "12.3s", "trn2"]
    wide = kubectl(*get, "--output=wide").splitlines()[0].split()
    narrow = head.split()
    assert f"\n{' '.join(narrow)}\n" in re.sub(" +", " ", (PROJECT / "README.md").read_text())
    assert ", ".join(narrow[1:-1]) in (PROJECT / "charts" / "neuronmodel" / "templates" / "NOTES.txt").read_text()
    more = ["PHASE", "ENGINE", "TP", "REPLICAS", "ENDPOINT", "TIER", "IMAGE"]
    assert wide == [*narrow[:3], "MESSAGE", *narrow[3:], *more]
