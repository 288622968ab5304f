"""What holds at every moment of every story, by the versions of its objects in the order in which they were written."""

import json
from collections.abc import Iterator, Sequence
from typing import Any, Final

from neuronmodel_api import names
from neuronmodel_api.status import NeuronModelStatus
from neuronmodel_operator.cluster import client
from tests.campaign.history import Version, condition
from tests.campaign.trial import Trial
from tests.e2e.accounting import assert_all_accounted
from tests.unit.operator.simulated import component

STALE_SECONDS: Final = 60.0
"""How long a status may go on to say Ready after the last worker was lost: what its look found, under load."""
MAX_EVENTS_A_MINUTE: Final = 30
MAX_STATUSES_A_MINUTE: Final = 60
"""Of one NeuronModel that is changed as fast as its workers can follow."""

Object = dict[str, Any]


def violations(trial: Trial) -> list[str]:
    versions = sorted(trial.chronicle.versions, key=lambda version: version.number)
    return [
        *_ready_without_a_worker(versions),
        *_two_jobs(versions),
        *_two_of_one_kind(versions),
        *_generations(versions),
        *_phases(versions),
        *_rates(trial),
    ]


def _ready_without_a_worker(versions: Sequence[Version]) -> Iterator[str]:
    """Ready is True only if a pod of the Deployment's template is ready, or was just before."""
    pods: dict[str, tuple[Object, bool, float]] = {}
    template, former_template, changed_at = "", "", float("-inf")
    was_ready = False
    for version in versions:
        o = version.object
        if version.kind == client.POD.kind and component(o) == names.COMPONENT_SERVE:
            is_ready = not version.is_deleted and _is_true(o, "Ready")
            former = pods.get(version.name)
            if former is None or former[1] != is_ready:
                pods[version.name] = (o, is_ready, version.at)
        elif version.kind == client.DEPLOYMENT.kind:
            found = o["spec"]["template"]["metadata"].get("annotations", {}).get(names.ANNOTATION_TEMPLATE_HASH, "")
            if found != template:
                former_template, template, changed_at = template, found, version.at
        elif version.kind == client.MODEL.kind and not version.is_deleted:
            is_ready = condition(o, "Ready").get("status") == "True"
            if is_ready and not was_ready:
                templates = {template} | ({former_template} if version.at - changed_at < STALE_SECONDS else set())
                if not any(_counts(pod, templates, version.at) for pod in pods.values()):
                    yield f"Ready was True at version {version.number} without a ready pod of the present template"
            was_ready = is_ready


def _counts(pod: tuple[Object, bool, float], templates: set[str], now: float) -> bool:
    o, is_ready, since = pod
    is_present = o["metadata"].get("annotations", {}).get(names.ANNOTATION_TEMPLATE_HASH, "") in templates
    return is_present and (is_ready or now - since < STALE_SECONDS)


def _two_jobs(versions: Sequence[Version]) -> Iterator[str]:
    """Never do two Jobs of one NeuronModel have work, so that no two build one key."""
    live: dict[str, str] = {}
    for version in versions:
        if version.kind != client.JOB.kind:
            continue
        o = version.object
        is_over = version.is_deleted or "deletionTimestamp" in o["metadata"] or _is_true(o, "Complete", "Failed")
        if is_over or _is_true(o, "SuccessCriteriaMet", "FailureTarget"):
            live.pop(version.name, None)
        else:
            live[version.name] = version.name
        if len(live) > 1:
            yield f"Jobs at the same time, at version {version.number}: {', '.join(sorted(live))}"
            return


def _two_of_one_kind(versions: Sequence[Version]) -> Iterator[str]:
    """Each Job is made once: a name never has two UIDs. Nor has a claim, while its NeuronModel is there."""
    uids: dict[tuple[str, str], set[str]] = {}
    for version in versions:
        if version.kind in (client.JOB.kind, client.CLAIM.kind):
            uids.setdefault((version.kind, version.name), set()).add(version.object["metadata"]["uid"])
    for (kind, name), found in uids.items():
        if len(found) > 1:
            yield f"{kind} {name} was made {len(found)} times"


def _generations(versions: Sequence[Version]) -> Iterator[str]:
    """What was observed is never ahead of what there is, never falls, and is not Ready with another spec's pods."""
    before = 0
    deployment: Object | None = None
    for version in versions:
        o = version.object
        if version.kind == client.DEPLOYMENT.kind:
            deployment = None if version.is_deleted else o
        if version.kind != client.MODEL.kind or version.is_deleted:
            continue
        observed, generation = o.get("status", {}).get("observedGeneration", 0), o["metadata"]["generation"]
        if observed > generation:
            yield f"generation {observed} was observed at version {version.number}, where {generation} is the latest"
        if observed < before:
            yield f"observedGeneration fell from {before} to {observed} at version {version.number}"
        before = max(before, observed)
        ready = condition(o, "Ready")
        if ready.get("status") == "True" and ready.get("observedGeneration") == generation and deployment:
            wanted = o["spec"].get("parallelism", {}).get("tensorParallelDegree")
            if (served := _degree(deployment)) != wanted:
                yield f"Ready for generation {generation} with degree {served} in place of {wanted}"


def _degree(deployment: Object) -> int | None:
    env = deployment["spec"]["template"]["spec"]["containers"][0]["env"]
    config = next(item["value"] for item in env if item["name"] == names.ENV_CONFIG)
    found: int | None = json.loads(config.replace("$$", "$")).get("neuronConfig", {}).get("tp_degree")
    return found


def _phases(versions: Sequence[Version]) -> Iterator[str]:
    """The phases of each start that is over add up to its total, and next to none of it is unexplained."""
    last = next((v.object for v in reversed(versions) if v.kind == client.MODEL.kind and v.object.get("status")), None)
    if last is None:
        return
    try:
        assert_all_accounted(NeuronModelStatus.model_validate(last["status"]).starts)
    except AssertionError as error:
        yield f"times: {str(error)[:400]}"


def _rates(trial: Trial) -> Iterator[str]:
    for what, most in (("events", MAX_EVENTS_A_MINUTE), ("neuronmodels/status", MAX_STATUSES_A_MINUTE)):
        times = trial.proxy.write_times(what)
        if (found := most_a_minute(times)) > most:
            yield f"{found} writes of {what} within a minute, which are more than {most}"


def most_a_minute(times: Sequence[float]) -> int:
    most = first = 0
    for last, at in enumerate(times):
        while at - times[first] > 60:
            first += 1
        most = max(most, last - first + 1)
    return most


def _is_true(o: Object, *kinds: str) -> bool:
    return any(c["type"] in kinds and c["status"] == "True" for c in o.get("status", {}).get("conditions", ()))
