"""NeuronModels: a manifest to apply, and one that was applied, watched and changed as its user would."""

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from neuronmodel_api import names
from neuronmodel_api.conditions import ConditionType
from neuronmodel_api.status import Condition, NeuronModelStatus, Outcome, Start

from .accounting import Asked, Seen, asking, assert_accounted, assert_agrees_with_stopwatch, table
from .cluster import Cluster, Object
from .waiting import eventually

SMALL_RESOURCES = {"requests": {"cpu": "20m", "memory": "64Mi"}}
ON_TRN2 = {
    "nodeSelector": {names.INSTANCE_TYPE_LABEL: names.DEFAULT_INSTANCE_TYPE},
    "tolerations": [{"key": names.NEURON_TAINT, "operator": "Exists"}],
}
"""For `worker`: what engine Neuron is given by itself."""


def neuron_model(
    name: str,
    path: str,
    *,
    degree: int = 3,
    strategy: str | None = "ShardOnCompile",
    claim: str = "models",
    **spec: Any,
) -> Object:
    """A NeuronModel for the CPU engine; `spec` is merged over it, None removing a field. `strategy` None: it names
    none, so that it is chosen."""
    return {
        "apiVersion": names.API_VERSION,
        "kind": names.KIND,
        "metadata": {"name": name},
        "spec": merged(
            {
                "model": {"source": {"persistentVolumeClaim": {"claimName": claim, "path": path}}},
                "engine": "CPU",
                "parallelism": {"tensorParallelDegree": degree},
                "compile": {"torchDtype": "float32", "sequenceLength": 256, "maxContextLength": 128},
                "sharding": {"strategy": strategy},
                "artifacts": {"template": {"size": "1Gi"}},
                "prepare": {"resources": SMALL_RESOURCES},
                # A namespace is gone as soon as its pods' grace is over, not sooner.
                "worker": {"resources": SMALL_RESOURCES, "terminationGracePeriodSeconds": 10},
            },
            spec,
        ),
    }


def merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> Object:
    """As a JSON merge patch does it."""
    result = dict(below)
    for key, value in above.items():
        nested = isinstance(value, Mapping)
        result[key] = merged(result[key] if isinstance(result.get(key), Mapping) else {}, value) if nested else value
    return {key: value for key, value in result.items() if value is not None}


@dataclass(frozen=True)
class Applied:
    """A NeuronModel in the cluster."""

    cluster: Cluster
    namespace: str
    name: str

    @property
    def resource(self) -> Object:
        found = self.cluster.get(names.KIND, self.name, self.namespace)
        assert found is not None, f"there is no NeuronModel {self.name} in {self.namespace}"
        return found

    @property
    def status(self) -> NeuronModelStatus:
        return NeuronModelStatus.model_validate(self.resource.get("status", {}))

    def condition(self, kind: ConditionType) -> Condition | None:
        return self.status.condition(kind)

    def change(self, **spec: Any) -> Asked:
        """Merge this into the spec. The time of the change, for a stopwatch."""
        with asking() as asked:
            self.cluster.patch(names.KIND, self.name, self.namespace, {"spec": spec})
        return asked

    def annotate(self, **annotations: str | None) -> Asked:
        """With keys of our own group."""
        keyed = {f"{names.GROUP}/{key}": value for key, value in annotations.items()}
        with asking() as asked:
            self.cluster.patch(names.KIND, self.name, self.namespace, {"metadata": {"annotations": keyed}})
        return asked

    def retry(self) -> Asked:
        return self.annotate(retry=str(time.time_ns()))

    def delete(self) -> None:
        self.cluster.delete(names.KIND, self.name, self.namespace)

    def wait_for_deletion(self) -> None:
        eventually(
            lambda: self.cluster.get(names.KIND, self.name, self.namespace) is None,
            what=f"{self.name} to be gone",
            instead=self.story,
        )

    def children(self, kind: str, component: str | None = None) -> list[Object]:
        labels = f"{names.LABEL_MODEL}={self.name}"
        if component is not None:
            labels += f",{names.LABEL_COMPONENT}={component}"
        return self.cluster.find(kind, self.namespace, labels=labels)

    def serving_pods(self) -> list[Object]:
        """Those that are not on their way out."""
        pods = self.children("Pod", names.COMPONENT_SERVE)
        return [pod for pod in pods if "deletionTimestamp" not in pod["metadata"]]

    def serving_pod(self) -> Object:
        pods = self.serving_pods()
        assert len(pods) == 1, [pod["metadata"]["name"] for pod in pods]
        return pods[0]

    def preparing_pods(self) -> list[Object]:
        return self.children("Pod", names.COMPONENT_PREPARE)

    def prepare_jobs(self) -> list[Object]:
        return self.children("Job", names.COMPONENT_PREPARE)

    def wait_for_condition(self, kind: ConditionType, status: str, *, reason: str | None = None) -> Condition:
        """For the generation that is there now."""
        generation = self.resource["metadata"]["generation"]

        def met() -> Condition | None:
            found = self.status
            condition = found.condition(kind)
            if condition is None or (found.observed_generation or 0) < generation:
                return None
            return condition if condition.status == status and reason in (None, condition.reason) else None

        what = f"{self.name} to be {kind}={status}{f' ({reason})' if reason else ''}"
        return eventually(met, what=what, instead=self.story)

    def wait_for_reason(self, reason: str) -> Condition:
        """Ready is not True, and this is why."""

        def met() -> Condition | None:
            ready = self.condition(ConditionType.READY)
            return ready if ready and ready.status != "True" and ready.reason == reason else None

        return eventually(met, what=f"{self.name} to say {reason}", instead=self.story)

    @property
    def sealing(self) -> str | None:
        """How far shards are that are sealed behind."""
        artifacts = self.status.artifacts
        return artifacts.sealing if artifacts else None

    @property
    def artifacts_folder(self) -> Path | None:
        """On this machine, the volume of the claim that was made from its template."""
        claim = self.cluster.get("PersistentVolumeClaim", names.templated_claim(self.name), self.namespace)
        bound = claim and claim["spec"].get("volumeName")
        volume = self.cluster.get("PersistentVolume", bound) if bound else None
        return Path(volume["spec"]["local"]["path"]) if volume else None

    @property
    def last_start(self) -> Start | None:
        """status.starts begins with the newest."""
        return next(iter(self.status.starts), None)

    def finished_start(self, after: str | None = None) -> Start | None:
        """Of a NeuronModel that is Ready at its present generation, by a start other than `after`."""
        found = self.resource
        status = NeuronModelStatus.model_validate(found.get("status", {}))
        ready = status.condition(ConditionType.READY)
        start = next(iter(status.starts), None)
        if ready is None or ready.status != "True" or status.observed_generation != found["metadata"]["generation"]:
            return None
        return start if start and start.outcome == Outcome.READY and start.id != after else None

    def wait_for_start(self, *, since: Asked | None = None, after: str | None = None) -> Start:
        """Ready, by a start other than `after`; its times add up, and agree with a stopwatch that ran `since`."""
        return wait_for_starts(Expected(self, since, after))[0]

    def story(self) -> str:
        """What somebody would look at who has to find out why it hangs."""
        parts = [json.dumps(self._brief(), indent=1)]
        parts += [table(start) for start in reversed(self.status.starts)]
        parts.append(self._say("get", "pods,jobs,deployments,pvc", "--output=wide"))
        parts.append(self._say("get", "events", "--sort-by=.metadata.creationTimestamp", "--no-headers"))
        labels = f"--selector={names.LABEL_MODEL}={self.name}"
        parts.append(self._say("logs", labels, "--tail=15", "--prefix", "--ignore-errors"))
        parts.append(self._operator_log())
        return "\n\n".join(parts)

    def _brief(self) -> Object:
        found = self.cluster.get(names.KIND, self.name, self.namespace) or {}
        status = {key: value for key, value in found.get("status", {}).items() if key != "starts"}
        return {"spec": found.get("spec"), "status": status}

    def _operator_log(self) -> str:
        log = self._say("logs", "deployment/neuronmodel", "--tail=400", namespace="neuronmodel-system").splitlines()
        return "\n".join([line for line in log if f"{self.namespace}/{self.name}" in line][-25:])

    def _say(self, *arguments: str, namespace: str = "") -> str:
        try:
            return self.cluster.kubectl(*arguments, f"--namespace={namespace or self.namespace}")
        except Exception as error:
            return str(error)


@dataclass(frozen=True)
class Expected:
    """A start that is under way."""

    model: Applied
    since: Asked | None = None
    """When its cause was; None: the status' total is held against nothing."""
    after: str | None = None
    """The id of the start before it."""


def wait_for_starts(*expected: Expected) -> list[Start]:
    """All of them, side by side: each is stopped the moment that it is seen Ready."""
    ended: dict[int, tuple[Start, Seen]] = {}
    looked = dict.fromkeys(range(len(expected)), 0.0)

    def all_ended() -> bool:
        for index, one in enumerate(expected):
            if index in ended:
                continue
            before, looked[index] = looked[index], time.monotonic()
            if start := one.model.finished_start(one.after):
                ended[index] = start, Seen(before, time.monotonic())
        return len(ended) == len(expected)

    def unfinished() -> str:
        return "\n\n".join(one.model.story() for index, one in enumerate(expected) if index not in ended)

    names_of = ", ".join(one.model.name for one in expected)
    eventually(all_ended, what=f"{names_of} to be Ready by a new start", instead=unfinished)
    for index, one in enumerate(expected):
        start, seen = ended[index]
        assert_accounted(start)
        if one.since is not None:
            assert_agrees_with_stopwatch(start, one.since, seen)
    return [ended[index][0] for index in range(len(expected))]
