"""What holds at every moment of every story, by the versions of its objects in the order in which they were written.

An `Invariants` is fed with the versions of one namespace and keeps what it needs to judge the next ones.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from pydantic import ValidationError

from neuronmodel_api import names
from neuronmodel_api.status import NeuronModelStatus
from neuronmodel_operator.cluster import client
from tests.campaign.history import Version
from tests.campaign.trial import Trial
from tests.cluster.operator.conditions import condition
from tests.e2e.accounting import assert_all_accounted
from tests.unit.operator.simulated import component

STALE_SECONDS: Final = 60.0
"""How long before it was written a status may have been true: its look, its pass and a busy machine lie between."""
MAX_EVENTS_A_MINUTE: Final = 100
MAX_STATUSES_A_MINUTE: Final = 60
"""Of one NeuronModel that is changed, deleted and made again every four seconds: a start has seven Events."""

Object = dict[str, Any]


@dataclass
class Invariants:
    has_deletions: bool = False
    """Somebody deletes children, which are made again then."""
    _pods: dict[str, tuple[Object, bool, float]] = field(default_factory=dict)
    """By name: as last seen, whether it was ready, and since when."""
    _templates: dict[str, float] = field(default_factory=dict)
    """Hashes of the Deployment's templates, and when each was replaced; infinity for the present one."""
    _was_ready: bool = False
    _live_jobs: dict[str, set[str]] = field(default_factory=dict)
    """Names of Jobs that have work, by the UID of their NeuronModel."""
    _uids: dict[tuple[str, str, str], set[str]] = field(default_factory=dict)
    _observed: dict[str, int] = field(default_factory=dict)
    """The latest observedGeneration, by UID."""
    _deployment: Object | None = None

    def feed(self, versions: Iterable[Version]) -> list[str]:
        """Returns a sentence for each violation."""
        found: list[str] = []
        for version in versions:
            match version.kind:
                case client.POD.kind:
                    self._see_pod(version)
                case client.DEPLOYMENT.kind:
                    self._see_deployment(version)
                case client.JOB.kind:
                    found += self._see_job(version)
                case client.MODEL.kind if not version.is_deleted:
                    found += self._see_model(version)
            found += self._made_twice(version)
        return found

    def _see_pod(self, version: Version) -> None:
        o = version.object
        is_ready = not version.is_deleted and _is_true(o, "Ready")
        former = self._pods.get(version.name)
        if component(o) == names.COMPONENT_SERVE and (former is None or former[1] != is_ready):
            self._pods[version.name] = (o, is_ready, version.at)

    def _see_deployment(self, version: Version) -> None:
        self._deployment = None if version.is_deleted else version.object
        template = version.object["spec"]["template"]["metadata"].get("annotations", {})
        present = template.get(names.ANNOTATION_TEMPLATE_HASH, "")
        for each, replaced_at in self._templates.items():
            if replaced_at == float("inf") and each != present:
                self._templates[each] = version.at
        self._templates[present] = float("inf")

    def _see_model(self, version: Version) -> Iterator[str]:
        yield from self._ready_without_a_worker(version)
        yield from self._generations(version)
        yield from _unaccounted(version)

    def _ready_without_a_worker(self, version: Version) -> Iterator[str]:
        """Ready becomes True only if a pod of the Deployment's template is ready, or was just before."""
        is_ready = condition(version.object, "Ready").get("status") == "True"
        if is_ready and not self._was_ready:
            templates = {each for each, until in self._templates.items() if version.at - until < STALE_SECONDS}
            if not any(self._counts(pod, templates, version.at) for pod in self._pods.values()):
                yield f"Ready was True at version {version.number} without a ready pod of the present template"
        self._was_ready = is_ready

    def _counts(self, pod: tuple[Object, bool, float], templates: set[str], now: float) -> bool:
        o, is_ready, since = pod
        is_present = o["metadata"].get("annotations", {}).get(names.ANNOTATION_TEMPLATE_HASH, "") in templates
        return is_present and (is_ready or now - since < STALE_SECONDS)

    def _see_job(self, version: Version) -> Iterator[str]:
        """Never do two Jobs of one NeuronModel have work, so that no two build one key."""
        o = version.object
        live = self._live_jobs.setdefault(o["metadata"].get("labels", {}).get(names.LABEL_UID, ""), set())
        is_over = version.is_deleted or "deletionTimestamp" in o["metadata"]
        if is_over or _is_true(o, "Complete", "Failed", "SuccessCriteriaMet", "FailureTarget"):
            live.discard(version.name)
        else:
            live.add(version.name)
        if len(live) > 1:
            yield f"Jobs at the same time, at version {version.number}: {', '.join(sorted(live))}"
            live.clear()

    def _made_twice(self, version: Version) -> Iterator[str]:
        """Of one NeuronModel, no name has two UIDs unless somebody deletes it; but pods are replaced."""
        meta = version.object["metadata"]
        if self.has_deletions or version.kind == client.POD.kind:
            return
        owner = meta.get("labels", {}).get(names.LABEL_UID, "")
        uids = self._uids.setdefault((version.kind, version.name, owner), set())
        if uids and meta["uid"] not in uids:
            yield f"{version.kind} {version.name} was made {len(uids) + 1} times"
        uids.add(meta["uid"])

    def _generations(self, version: Version) -> Iterator[str]:
        """What was observed is never ahead of what there is, never falls, and is not Ready with another spec's pods."""
        o = version.object
        uid, generation = o["metadata"]["uid"], o["metadata"]["generation"]
        observed, before = o.get("status", {}).get("observedGeneration", 0), self._observed.get(uid, 0)
        if observed > generation:
            yield f"generation {observed} was observed at version {version.number}, where {generation} is the latest"
        if observed < before:
            yield f"observedGeneration fell from {before} to {observed} at version {version.number}"
        self._observed[uid] = max(before, observed)
        ready = condition(o, "Ready")
        is_of_present = ready.get("status") == "True" and ready.get("observedGeneration") == generation
        if is_of_present and self._deployment and not self.has_deletions:
            wanted = o["spec"].get("parallelism", {}).get("tensorParallelDegree")
            if (served := _degree(self._deployment)) != wanted:
                yield f"Ready for generation {generation} with degree {served} in place of {wanted}"


def violations(trial: Trial) -> list[str]:
    """Of a whole story."""
    versions = sorted(trial.chronicle.versions, key=lambda version: version.number)
    return [*dict.fromkeys(Invariants().feed(versions)), *rates(trial)]


def rates(trial: Trial) -> Iterator[str]:
    for what, most in (("events", MAX_EVENTS_A_MINUTE), ("neuronmodels/status", MAX_STATUSES_A_MINUTE)):
        if (found := most_a_minute(trial.proxy.write_times(what, trial.namespace))) > most:
            yield f"{found} writes of {what} within a minute, which are more than {most}"


def most_a_minute(times: Sequence[float]) -> int:
    most = first = 0
    for last, at in enumerate(times):
        while at - times[first] > 60:
            first += 1
        most = max(most, last - first + 1)
    return most


def _unaccounted(version: Version) -> Iterator[str]:
    """The phases of each start that is over add up to its total, and next to none of it is unexplained."""
    try:
        assert_all_accounted(NeuronModelStatus.model_validate(version.object.get("status") or {}).starts)
    except AssertionError as error:
        yield f"times: {str(error)[:600]}"
    except ValidationError as error:
        yield f"a status that cannot be read: {error}"


def _degree(deployment: Object) -> int | None:
    env = deployment["spec"]["template"]["spec"]["containers"][0]["env"]
    config = next(item["value"] for item in env if item["name"] == names.ENV_CONFIG)
    found: int | None = json.loads(config.replace("$$", "$")).get("neuronConfig", {}).get("tp_degree")
    return found


def _is_true(o: Object, *kinds: str) -> bool:
    return any(c["type"] in kinds and c["status"] == "True" for c in o.get("status", {}).get("conditions", ()))
