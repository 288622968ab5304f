"""Each invariant of the fault campaign is violated by what it is there for."""

from typing import Any

import pytest

from neuronmodel_api import names
from neuronmodel_operator.cluster import client
from tests.campaign.history import Version
from tests.campaign.invariants import Invariants, most_a_minute
from tests.campaign.soak import Sample, growth

Object = dict[str, Any]
NOW = "2026-03-01T12:00:00Z"


def version(number: int, kind: client.Kind, o: Object, *, at: float = 0.0, is_deleted: bool = False) -> Version:
    return Version(number, at, kind.kind, is_deleted, o)


def model(generation: int = 1, *, ready: str = "Unknown", observed: int | None = None, degree: int = 1) -> Object:
    of = generation if observed is None else observed
    condition = {"type": "Ready", "status": ready, "reason": "Serving", "observedGeneration": of}
    return {
        "metadata": {"name": "smol", "uid": "uid-1", "generation": generation},
        "spec": {"parallelism": {"tensorParallelDegree": degree}},
        "status": {"observedGeneration": of, "conditions": [condition | {"lastTransitionTime": NOW, "message": ""}]},
    }


def pod(template: str = "t-1", *, is_ready: bool = True) -> Object:
    meta = {
        "name": "smol-a", "uid": "uid-pod", "labels": {names.LABEL_COMPONENT: names.COMPONENT_SERVE},
        "annotations": {names.ANNOTATION_TEMPLATE_HASH: template},
    }  # fmt: skip
    return {"metadata": meta, "status": {"conditions": [{"type": "Ready", "status": str(is_ready)}]}}


def deployment(template: str = "t-1", degree: int = 1) -> Object:
    env = [{"name": names.ENV_CONFIG, "value": f'{{"neuronConfig":{{"tp_degree":{degree}}}}}'}]
    annotations = {names.ANNOTATION_TEMPLATE_HASH: template}
    containers = {"spec": {"containers": [{"env": env}]}, "metadata": {"annotations": annotations}}
    return {"metadata": {"name": "smol", "uid": "uid-deployment"}, "spec": {"template": containers}}


def job(name: str, uid: str = "uid-job", **status: Any) -> Object:
    labels = {names.LABEL_UID: "uid-1"}
    return {"metadata": {"name": name, "uid": uid, "labels": labels}, "status": status}


DONE = [{"type": "Complete", "status": "True"}]
SERVING = (version(1, client.DEPLOYMENT, deployment()), version(2, client.POD, pod()))


def found(*versions: Version, has_deletions: bool = False) -> list[str]:
    return Invariants(has_deletions).feed(versions)


def test_a_story_that_goes_well_violates_nothing() -> None:
    assert (
        found(
            version(1, client.JOB, job("one")),
            version(2, client.JOB, job("one", conditions=DONE)),
            version(3, client.JOB, job("two", "uid-other")),
            version(4, client.DEPLOYMENT, deployment()),
            version(5, client.POD, pod()),
            version(6, client.MODEL, model(ready="True")),
        )
        == []
    )


@pytest.mark.parametrize(
    "before",
    [
        (),
        (version(1, client.DEPLOYMENT, deployment()), version(2, client.POD, pod(is_ready=False), at=-100.0)),
        (version(1, client.DEPLOYMENT, deployment("t-2")), version(2, client.POD, pod("t-1"))),
        (*SERVING, version(3, client.POD, pod(), is_deleted=True, at=-100.0)),
    ],
    ids=["no pod", "a pod that is not ready", "a pod of another template", "a pod that is gone"],
)
def test_ready_needs_a_ready_pod_of_the_present_template(before: tuple[Version, ...]) -> None:
    (sentence,) = found(*before, version(9, client.MODEL, model(ready="True")))
    assert "without a ready pod" in sentence


def test_a_pod_that_was_just_lost_may_still_be_counted() -> None:
    lost = version(3, client.POD, pod(), is_deleted=True, at=10.0)
    assert found(*SERVING, lost, version(4, client.MODEL, model(ready="True"), at=12.0)) == []


def test_two_jobs_with_work_are_found() -> None:
    (sentence,) = found(version(1, client.JOB, job("one")), version(2, client.JOB, job("two", "uid-other")))
    assert sentence == "Jobs at the same time, at version 2: one, two"


def test_what_is_made_twice_is_found_unless_somebody_deletes() -> None:
    twice = (
        version(1, client.JOB, job("one")),
        version(2, client.JOB, job("one"), is_deleted=True),
        version(3, client.JOB, job("one", "uid-other")),
    )
    assert found(*twice) == ["Job one was made 2 times"]
    assert found(*twice, has_deletions=True) == []


def test_generations_are_found_that_are_ahead_fall_or_are_served_with_another_spec() -> None:
    (ahead,) = found(version(1, client.MODEL, model(1, observed=2)))
    assert ahead == "generation 2 was observed at version 1, where 1 is the latest"
    (fell,) = found(version(1, client.MODEL, model(3)), version(2, client.MODEL, model(3, observed=2)))
    assert fell == "observedGeneration fell from 3 to 2 at version 2"
    (other,) = found(*SERVING, version(3, client.MODEL, model(2, ready="True", degree=4)))
    assert other == "Ready for generation 2 with degree 1 in place of 4"


@pytest.mark.parametrize("milliseconds", [900, 700])
def test_phases_that_do_not_add_up_or_are_unexplained_are_found(milliseconds: int) -> None:
    o = model()
    phases = [{"stage": "Serve", "name": "Read", "startedAt": NOW, "milliseconds": milliseconds}]
    if milliseconds == 700:
        phases.append({"stage": "Serve", "name": "Unaccounted", "startedAt": NOW, "milliseconds": 300})
    start = {"id": "a/0", "cause": "Created", "outcome": "Ready", "startedAt": NOW, "readyAt": NOW}
    o["status"]["starts"] = [start | {"totalMilliseconds": 1000, "phases": phases}]
    (sentence,) = found(version(1, client.MODEL, o))
    assert sentence.startswith("times: ")


def test_the_most_within_a_minute_is_counted_wherever_it_begins() -> None:
    assert most_a_minute([]) == 0
    assert most_a_minute([0.0, 50.0, 61.0, 62.0, 63.0, 109.0]) == 5


def test_growth_is_found_in_the_last_third() -> None:
    def samples(*last: float) -> list[Sample]:
        return [*[Sample(100.0, 50, 300)] * 4, *[Sample(each, 50, 300) for each in last]]

    assert growth(samples(100.0, 110.0)) == []
    assert growth(samples(120.0, 130.0)) == ["megabytes of the operator grew from 100 to 125"]
    assert growth([]) == ["the soak was too short for a sample"]
