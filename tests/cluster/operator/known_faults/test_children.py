"""Children that somebody else writes to or removes, and what can't be changed in them.

What other operators fell over: docs/reliability.md names each issue beside its test.
"""

import asyncio
import signal
from typing import Any

import pytest

from neuronmodel_api import names
from neuronmodel_operator.cluster import client
from neuronmodel_operator.state.annotations import PREPARED, RENDERED, SPEC_HASH
from tests.cluster.operator.known_faults.conftest import Model, Place
from tests.cluster.operator.played import IMAGE, SCHEDULER, Sight
from tests.cluster.operator.process import until
from tests.cluster.operator.storage import make_volume, requested_size

pytestmark = pytest.mark.asyncio(loop_scope="module")

VARIABLE = {"worker": {"env": [{"name": "ASKED_FOR", "value": "later"}]}}
"""A change that replaces the worker and prepares nothing."""
OF_ITS_OWN = ("coordination.k8s.io", "authorization.k8s.io")
"""Groups of what the operator writes whatever there is: its Lease, and questions about its rights."""

Object = dict[str, Any]


async def test_a_finished_job_that_its_ttl_removed_is_not_run_again(common: Place) -> None:
    model = await common.make("brief")
    await model.serving()
    (job,) = await model.all_of(client.JOB)
    over = {"spec": {"ttlSecondsAfterFinished": 0}}
    await common.api.merge(client.JOB, common.namespace, job["metadata"]["name"], over)
    await until(lambda: model.has_none_of(client.JOB))
    await model.change(VARIABLE)
    await model.serving()
    assert len(model.written("jobs", "create")) == 1


async def test_labels_and_annotations_of_others_stay_and_lead_to_no_exchange_of_writes(common: Place) -> None:
    model = await common.make("marked")
    await model.serving()
    before = len(model.written("deployments", "patch"))
    await common.by_kubectl("label", "deployment,service", model.name, "example.com/team=blue")
    await common.by_kubectl("annotate", "deployment,service", model.name, "example.com/note=seen")
    await common.by_kubectl("rollout", "restart", f"deployment/{model.name}")
    await model.change(VARIABLE)
    await model.serving()
    for kind in (client.DEPLOYMENT, client.SERVICE):
        meta = (await common.get(kind, model.name))["metadata"]
        assert (meta["labels"]["example.com/team"], meta["annotations"]["example.com/note"]) == ("blue", "seen")
    writes = model.written("deployments", "patch")[before:]
    assert 1 <= len(writes) <= 2, "for the restart of the rollout at the most, and for the change"


async def test_replicas_are_those_of_the_model_and_the_model_can_be_scaled(common: Place) -> None:
    model = await common.make("scaled")
    await model.serving()
    await common.by_kubectl("scale", f"deployment/{model.name}", "--replicas=0")
    await until(lambda: has_replicas(model, 1), what="put back")
    await common.by_kubectl("scale", f"neuronmodels/{model.name}", "--replicas=0")
    await model.until(lambda sight: sight.ready.get("reason") == "ScaledToZero", "scaled to zero")
    await until(lambda: has_replicas(model, 0), what="scaled to zero")
    await common.by_kubectl("scale", f"neuronmodels/{model.name}", "--replicas=1")
    await model.serving()
    assert await has_replicas(model, 1)


async def has_replicas(model: Model, number: int) -> bool:
    return bool((await model.deployment())["spec"]["replicas"] == number)


async def test_a_claim_that_a_user_enlarged_stays_so_and_grows_with_the_spec(common: Place) -> None:
    await make_volume(common.api, common.namespace, common.namespace, common.namespace, "enlarged")
    model = await common.make("enlarged")
    await model.serving()
    await until(lambda: is_bound(model))
    larger = {"spec": {"resources": {"requests": {"storage": "2Gi"}}}}
    await common.api.merge(client.CLAIM, common.namespace, model.claim, larger)
    await model.change(VARIABLE)
    await model.serving()
    assert await requested_size(common.api, common.namespace, model.name) == "2Gi"
    await model.change({"artifacts": {"template": {"size": "3Gi"}}})
    await until(lambda: has_size(model, "3Gi"))
    await model.serving()
    assert model.refused(403, 422) == []


async def is_bound(model: Model) -> bool:
    claim = await model.place.get(client.CLAIM, model.claim)
    return bool(claim.get("status", {}).get("phase") == "Bound")


async def has_size(model: Model, size: str) -> bool:
    return await requested_size(model.place.api, model.place.namespace, model.name) == size


async def test_a_job_that_was_made_for_another_image_is_replaced_and_never_changed(common: Place) -> None:
    common.played.held.add("upgraded")
    model = await common.make("upgraded")
    (former,) = await until(lambda: model.all_of(client.JOB))
    await model.change({"worker": {"image": f"{IMAGE}.1"}})
    await until(lambda: is_replaced(model, former))
    common.played.held.remove("upgraded")
    await model.serving()
    (job,) = await model.all_of(client.JOB)
    assert job["spec"]["template"]["spec"]["containers"][0]["image"] == f"{IMAGE}.1"
    assert model.refused(422) == []


async def is_replaced(model: Model, former: Object) -> bool:
    jobs = await model.all_of(client.JOB)
    return len(jobs) == 1 and jobs[0]["metadata"]["uid"] != former["metadata"]["uid"]


async def test_the_longest_names_and_names_that_begin_others_are_served_each_by_their_own(common: Place) -> None:
    longest = "m" * (names.MAX_MODEL_NAME - 1)
    together = (f"{longest}a", f"{longest}b", longest, "short", "short-prepare")
    models = await asyncio.gather(*(common.make(name) for name in together))
    await asyncio.gather(*(model.serving() for model in models))
    for model in models:
        for kind in (client.JOB, client.DEPLOYMENT, client.SERVICE):
            (own,) = await model.all_of(kind)
            assert [owner["uid"] for owner in own["metadata"]["ownerReferences"]] == [model.uid]


async def test_rubbish_around_a_model_stops_neither_it_nor_others(common: Place) -> None:
    """An Event without any time and text, what is remembered in annotations overwritten, and a pod that claims to
    belong to the NeuronModel."""
    common.played.held.add("littered")
    model = await common.make("littered")
    (pod,) = await until(lambda: model.all_of(client.POD))
    await common.api.create(client.EVENT, common.namespace, timeless_event(pod))
    await common.api.create(client.POD, common.namespace, pretender(model))
    common.played.held.remove("littered")
    await model.serving()
    rubbish = [f"{key}={{]" for key in (PREPARED, RENDERED, SPEC_HASH, names.ANNOTATION_CHANGE)]
    await common.by_kubectl("annotate", "--overwrite", f"deployment/{model.name}", *rubbish)
    await model.change(VARIABLE)
    other = await common.make("unlittered")
    await asyncio.gather(model.serving(), other.serving())
    assert common.operator.messages('"level": "ERROR"') == []


def timeless_event(pod: Object) -> Object:
    about = {key: pod["metadata"][key] for key in ("name", "namespace", "uid")}
    return {
        "metadata": {"name": "timeless"},
        "involvedObject": {"kind": "Pod", "apiVersion": "v1"} | about,
        "type": "Warning",
        "reason": "FailedMount",
        "firstTimestamp": None,
        "lastTimestamp": None,
        "eventTime": None,
    }


def pretender(model: Model) -> Object:
    labels = {names.LABEL_MODEL: model.name, names.LABEL_UID: model.uid, names.LABEL_COMPONENT: "unknown"}
    return {
        "metadata": {"name": f"{model.name}-pretender", "labels": labels},
        "spec": {"schedulerName": SCHEDULER, "containers": [{"name": "main", "image": IMAGE}]},
    }


async def test_conditions_agree_with_each_other_and_with_the_spec_they_tell_of(common: Place) -> None:
    source = {"persistentVolumeClaim": {"claimName": "later", "path": "SmolLM2"}}
    model = await common.make("told-of", model={"source": source})
    await model.until(lambda sight: sight.ready.get("reason") == "SourceClaimMissing", "waiting for the claim")
    await model.change({"model": {"source": {"persistentVolumeClaim": {"claimName": "models"}}}})
    assert_agreement(await model.serving(), 2)
    before = (await model.deployment())["metadata"]["generation"]
    await model.change({"artifacts": {"retention": "Delete"}})
    assert_agreement(await model.serving(), 3)
    assert (await model.deployment())["metadata"]["generation"] == before, "no pod is touched by it"


def assert_agreement(sight: Sight, generation: int) -> None:
    conditions = sight.status["conditions"]
    assert sight.status["observedGeneration"] == sight.meta["generation"] == generation
    assert {c["type"]: c["observedGeneration"] for c in conditions if c["observedGeneration"] != generation} == {}
    unlike = {c["type"] for c in conditions if c["status"] != "True"}
    assert unlike == {"Scheduled", "UpdateAvailable"}, "a played pod is on no node, and there is no update"
    assert sight.condition("Scheduled")["status"] == "Unknown"


async def test_an_operator_that_comes_back_to_what_serves_writes_and_says_nothing(place: Place) -> None:
    """The account of the pods is a field that the API server also fills in under its former name."""
    await place.start()
    await (await place.make(worker={"serviceAccountName": "default"})).serving()
    await come_back(place)  # what the kill cut off is made up for
    num_writes = len(place.proxy.writes)
    await come_back(place)
    written = {str(each.request) for each in place.proxy.writes[num_writes:] if each.request.group not in OF_ITS_OWN}
    assert written == set()


async def come_back(place: Place) -> None:
    place.operator.end(signal.SIGKILL)
    await place.start()
    await until(place.has_passed)
