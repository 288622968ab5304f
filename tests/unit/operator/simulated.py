"""A cluster in memory: carries plans out write by write, and does what Kubernetes' controllers and kubelets would.

Times of Kubernetes are floored to the second, as the real ones are; the workers' own are exact.
"""

import copy
import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from neuronmodel_api import exits, names
from neuronmodel_api.conditions import ConditionType
from neuronmodel_api.config import Seal, Strategy, WorkerConfig
from neuronmodel_api.report import (
    Choice,
    Devices,
    Failure,
    InstalledServer,
    Note,
    PhaseReport,
    Progress,
    Report,
    ResolvedSource,
    Result,
    Sealing,
    SealingState,
    Sizing,
    SourceTraffic,
    Stage,
    State,
)
from neuronmodel_api.sources import HubSource, NetworkSource
from neuronmodel_api.spec import NeuronModelSpec
from neuronmodel_api.status import Condition, NeuronModelStatus
from neuronmodel_operator.cluster.observe import may_need_a_job
from neuronmodel_operator.decide.keys_in_use import serving_workload
from neuronmodel_operator.reconcile.reconcile import reconcile
from neuronmodel_operator.settings import Settings
from neuronmodel_operator.state.annotations import NUDGED
from neuronmodel_operator.state.observed import Claim, Observed, ObservedModel, Refusal, ServingWorkload
from neuronmodel_operator.state.plan import EventNote, Plan

Object = dict[str, Any]
EPOCH = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)
SETTINGS = Settings(worker_images={"CPU": "worker-cpu:1", "Neuron": "worker-neuron:1"})  # type: ignore[dict-item]


def with_source(kind: type[NetworkSource], **changes: Any) -> Settings:
    """SETTINGS with other ones for a kind of sources."""
    return replace(SETTINGS, sources={**SETTINGS.sources, kind: replace(SETTINGS.sources[kind], **changes)})


NODE = "node-1"
SERVICE_VARIABLES = {"KUBERNETES_SERVICE_HOST": "10.96.0.1"}
"""That every pod has."""


class OperatorKilledError(Exception):
    """Between two writes."""


@dataclass(frozen=True)
class Run:
    """How a worker's run ends; `failure` None: prepare succeeds, serve becomes ready."""

    failure: Failure | None = None
    exit_code: int = exits.OK
    builds: str | None = None
    milliseconds: int = 3_000
    quarantined: tuple[str, ...] = ()
    notes: tuple[Note, ...] = ()
    sizing: Sizing | None = None
    server: InstalledServer | None = None
    devices: Devices | None = None
    traffic: SourceTraffic | None = None


def failing(reason: str, exit_code: int = exits.BAD_INPUT, message: str = "It is wrong. Mend it.") -> Run:
    return Run(Failure(reason=reason, message=message, final=exit_code in exits.FINAL), exit_code)


def choice_of(strategy: Strategy) -> Choice:
    return Choice(
        strategy=strategy,
        reason="ShardsLoadFaster" if strategy is Strategy.SHARD_ON_COMPILE else "SourceLoadsFaster",
        message=f"{strategy} is faster.",
        source_bytes=900_000,
        shard_bytes=1_000_000,
        load_bytes_per_second=300_000,
        read_bytes_per_second=500_000,
        write_bytes_per_second=400_000,
        starts_per_source="4",
        on_compile_milliseconds=2_000,
        on_load_milliseconds=3_000,
    )


def commit(number: int) -> str:
    return f"{number:040x}"


def state(number: int) -> str:
    """Of a bucket's objects."""
    return f"{number:064x}"


def result_of(config: WorkerConfig, revision: int, builds: str | None, chosen: Strategy) -> Result:
    """As keyed as the real one: other inputs, other keys; another revision of the source, another fingerprint."""
    place, source = config.source_path, None
    if network := config.network_source:
        pinned = network.pinned or (commit(revision) if isinstance(network, HubSource) else state(revision))
        named = getattr(network, "repository", None) or getattr(network, "uri", None)
        place, revision = f"{named}@{pinned}", int(pinned, 16)
        source = ResolvedSource(revision=pinned, files=2, bytes=900_000, resolved_at=network.resolved_at or EPOCH)
    key = hashlib.sha256(json.dumps([config.neuron_config, config.source_path], sort_keys=True).encode()).hexdigest()
    is_auto = config.strategy is Strategy.AUTO
    strategy = chosen if is_auto else config.strategy
    return Result(
        source_fingerprint=f"fingerprint-{place}-{revision}",
        source_content=f"content-{place}-{revision}",
        model_type="llama",
        compiled_key=f"c-{key[:12]}",
        shards_key=f"s-{key[:12]}-{revision}" if strategy is Strategy.SHARD_ON_COMPILE else None,
        strategy=strategy,
        choice=choice_of(chosen) if is_auto else None,
        cache="Miss" if builds else "Hit",
        compiled_cache="Miss" if builds else "Hit",
        missed=builds,
        bytes=1_000_000,
        source_bytes=900_000,
        source=source,
    )


def stamp(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


@dataclass
class Cluster:
    """One NeuronModel and what belongs to it."""

    model: Object
    now: datetime = EPOCH
    settings: Settings = SETTINGS
    claims: dict[str, Object] = field(default_factory=dict)
    jobs: dict[str, Object] = field(default_factory=dict)
    pods: dict[str, Object] = field(default_factory=dict)
    deployment: Object | None = None
    service: Object | None = None
    events: list[Object] = field(default_factory=list)
    recorded_events: list[EventNote] = field(default_factory=list)
    reports: dict[str, Report] = field(default_factory=dict)
    last_reports: dict[str, Report] = field(default_factory=dict)
    nobody_is_heard: bool = False
    """No report of a worker that runs reaches the operator."""
    refusals: tuple[Refusal, ...] = ()
    other_models: tuple[Object, ...] = ()
    serving_workloads: tuple[Object, ...] = ()
    """Deployments and pods of other NeuronModels."""
    namespace_terminating: bool = False
    prepare: Callable[[WorkerConfig], Run] = lambda config: Run()
    serve: Callable[[WorkerConfig], Run] = lambda config: Run()
    cleanup: Run = field(default_factory=Run)
    can_schedule: Callable[[Object], str | None] = lambda pod: None
    """The scheduler's message when there is no node; "" when it says nothing of the pod."""
    admission: Callable[[Object], str | None] = lambda pod: None
    """The API server's message when it takes no such pod."""
    answer_to_write: Callable[[Object], Refusal | None] = lambda manifest: None
    """Of the API server to an apply or a create."""
    kubelet: Callable[[Object], Object | None] = lambda pod: None
    """What keeps a placed pod's container waiting: its state `waiting`, or {} for a volume that can't be mounted."""
    job_lag: int = 0
    """Steps from the end of a Job's pod to the Job's own condition."""
    chooses: Strategy = Strategy.SHARD_ON_COMPILE
    """With Auto."""
    sealed: set[str] = field(default_factory=set)
    """Keys of shards that are whole on the volume."""
    revision: int = 1
    """Of the source's content."""
    is_gone: bool = False
    log: list[str] = field(default_factory=list)
    """Every write of the operator."""
    serial: int = 0
    tried: tuple[str, int, str | None] | None = None
    """What the ReplicaSet made its last pods from."""

    # The NeuronModel, as a user writes it.

    @staticmethod
    def of(model: Object, claims: tuple[str, ...] = ("models",)) -> "Cluster":
        model = copy.deepcopy(model)
        meta = {"namespace": "demo", "uid": "uid-model", "generation": 1, "creationTimestamp": stamp(EPOCH)}
        model["metadata"] = meta | {"annotations": {}, "finalizers": []} | model["metadata"]
        cluster = Cluster(model, now=EPOCH + timedelta(milliseconds=120))
        for name in claims:
            cluster.add_claim(name)
        return cluster

    def add_claim(self, name: str, *modes: str) -> None:
        meta = {"name": name, "uid": self._uid(), "creationTimestamp": stamp(self.now)}
        self.claims[name] = {"metadata": meta, "spec": {"accessModes": list(modes or ("ReadWriteOnce",))}}

    def edit(self, path: str, value: Any) -> None:
        """A change of the spec."""
        target = self.model["spec"]
        *parents, last = path.split(".")
        for parent in parents:
            target = target.setdefault(parent, {})
        if target.get(last) != value:
            target[last] = value
            self.model["metadata"]["generation"] += 1

    def annotate(self, key: str, value: str) -> None:
        self.model["metadata"]["annotations"][key] = value

    def delete_model(self) -> None:
        self.model["metadata"].setdefault("deletionTimestamp", stamp(self.now))
        self._collect()

    # What a test asks.

    @property
    def status(self) -> NeuronModelStatus:
        return NeuronModelStatus.model_validate(self.model.get("status") or {})

    def condition(self, kind: ConditionType = ConditionType.READY) -> Condition:
        found = self.status.condition(kind)
        assert found is not None, f"no condition {kind}"
        return found

    def reason(self, kind: ConditionType = ConditionType.READY) -> tuple[str, str]:
        condition = self.condition(kind)
        return condition.status, condition.reason

    @property
    def serving(self) -> list[Object]:
        return [pod for pod in self.pods.values() if component(pod) == names.COMPONENT_SERVE]

    @property
    def live_jobs(self) -> list[Object]:
        return sorted(self.jobs.values(), key=lambda job: job["metadata"]["name"])

    # The operator.

    def observe(self) -> Observed:
        meta = self.model["metadata"]
        deletion = meta.get("deletionTimestamp")
        model = ObservedModel(
            namespace=meta["namespace"],
            name=meta["name"],
            uid=meta["uid"],
            generation=meta["generation"],
            created_at=datetime.fromisoformat(meta["creationTimestamp"]),
            deletion_requested_at=datetime.fromisoformat(deletion) if deletion else None,
            annotations=meta["annotations"],
            finalizers=tuple(meta["finalizers"]),
            spec=NeuronModelSpec.model_validate(self.model["spec"]),
            status=self.status,
        )
        state = copy.deepcopy(
            (self.deployment, self.service, tuple(self.jobs.values()), tuple(self.pods.values()), self.events)
        )
        needs_a_job = may_need_a_job(model, state[2])
        return Observed(
            model=model,
            deployment=state[0],
            service=state[1],
            jobs=state[2],
            pods=tuple(
                sorted(state[3], key=lambda pod: (pod["metadata"]["creationTimestamp"], pod["metadata"]["name"]))
            ),
            claims={name: Claim(name, copy.deepcopy(claim)) for name, claim in self.claims.items()},
            events=tuple(state[4]),
            reports={} if self.nobody_is_heard else dict(self.reports),
            last_reports=dict(self.last_reports),
            refusals=self.refusals,
            namespace_terminating=self.namespace_terminating,
            serving_workloads=self._serving_workloads(state[0]) if needs_a_job else None,
            other_models=self.other_models,
        )

    def _serving_workloads(self, deployment: Object | None) -> tuple[ServingWorkload, ...]:
        there = (*([deployment] if deployment else []), *self.serving, *self.serving_workloads)
        return tuple(map(serving_workload, there))

    def plan(self) -> Plan:
        return reconcile(self.observe(), self.now, self.settings)

    def reconcile(self, writes: int = 1_000_000) -> Plan:
        """One pass, killed before the write after the last that it is given."""
        plan = self.plan()
        for done, write in enumerate(self._writes(plan)):
            if done >= writes:
                raise OperatorKilledError
            write()
        return plan

    def _writes(self, plan: Plan) -> list[Callable[[], None]]:
        """In the order of `apply`."""
        meta = self.model["metadata"]
        writes: list[Callable[[], None]] = []
        if plan.finalizer is True:
            writes.append(lambda: meta.update(finalizers=[names.FINALIZER]))
        writes += [lambda ref=ref: self._delete(ref.kind, ref.name, ref.uid) for ref in plan.delete]  # type: ignore[misc]
        writes += [lambda manifest=manifest: self._apply(manifest) for manifest in plan.apply]  # type: ignore[misc]
        writes += [lambda manifest=manifest: self._create(manifest) for manifest in plan.create]  # type: ignore[misc]
        status = plan.status
        if status is not None and status.to_json() != self.model.get("status"):
            writes.append(lambda: self._write_status(status))
        writes.append(lambda: self.recorded_events.extend(plan.events))
        if plan.finalizer is False:
            writes.append(self._release)
        return writes

    def _write_status(self, status: NeuronModelStatus) -> None:
        self.model["status"] = json.loads(json.dumps(status.to_json()))
        self.log.append("status")

    def _release(self) -> None:
        self.model["metadata"]["finalizers"] = []
        self._collect()

    def _collect(self) -> None:
        meta = self.model["metadata"]
        if "deletionTimestamp" in meta and not meta["finalizers"]:
            self.is_gone = True
            self.jobs = {name: job for name, job in self.jobs.items() if not is_owned(job)}
            uids = {job["metadata"]["uid"] for job in self.jobs.values()}
            self.pods = {uid: pod for uid, pod in self.pods.items() if job_uid(pod) in uids}
            self.deployment = self.service = None

    def collect_children(self) -> None:
        """What garbage collection does while a foreground deletion waits for the finalizers of others."""
        for job in [job for job in self.jobs.values() if is_owned(job)]:
            self._delete("Job", job["metadata"]["name"], job["metadata"]["uid"])
        if self.deployment:
            self._delete("Deployment", "", "")
        self.service = None

    def _delete(self, kind: str, name: str, uid: str) -> None:
        self.log.append(f"delete {kind} {name}")
        if kind == "Job" and name in self.jobs and self.jobs[name]["metadata"]["uid"] == uid:
            del self.jobs[name]
            for pod in self.pods.values():
                if job_uid(pod) == uid:
                    pod["metadata"]["deletionTimestamp"] = stamp(self.now)
        elif kind == "Deployment" and self.deployment:
            self.deployment = None
            for pod in self.serving:
                pod["metadata"]["deletionTimestamp"] = stamp(self.now)
        elif kind == "Service":
            self.service = None
        elif kind == "PersistentVolumeClaim":
            self.claims.pop(name, None)

    def _apply(self, manifest: Object) -> None:
        manifest = copy.deepcopy(manifest)
        kind, name = manifest["kind"], manifest["metadata"]["name"]
        self.log.append(f"apply {kind} {name}")
        if self._is_refused(manifest):
            return
        former = {"Deployment": self.deployment, "Service": self.service}.get(kind) or self.claims.get(name)
        identity = {"uid": former["metadata"]["uid"] if former else self._uid(), "generation": 1}
        identity["creationTimestamp"] = former["metadata"]["creationTimestamp"] if former else stamp(self.now)
        manifest["metadata"] |= identity
        if kind == "Deployment":
            self.deployment = manifest
        elif kind == "Service":
            self.service = manifest
        else:
            self.claims[name] = manifest

    def _create(self, manifest: Object) -> None:
        name = manifest["metadata"]["name"]
        self.log.append(f"create {manifest['kind']} {name}")
        if self._is_refused(manifest):
            return
        if name not in self.jobs:
            manifest = copy.deepcopy(manifest)
            manifest["metadata"] |= {"uid": self._uid(), "creationTimestamp": stamp(self.now)}
            self.jobs[name] = manifest

    def _is_refused(self, manifest: Object) -> bool:
        answer, key = self.answer_to_write(manifest), (manifest["kind"], manifest["metadata"]["name"])
        others = tuple(refusal for refusal in self.refusals if (refusal.kind, refusal.name) != key)
        self.refusals = (*others, answer) if answer else others
        return answer is not None

    def _uid(self) -> str:
        self.serial += 1
        return f"uid-{self.serial}"

    # Kubernetes.

    def step(self, seconds: float = 1.0) -> None:
        """Some time passes; every controller and kubelet takes one step."""
        self.now += timedelta(seconds=seconds)
        for pod in list(self.pods.values()):
            if "deletionTimestamp" in pod["metadata"]:
                self._forget_pod(pod)
            else:
                self._advance_pod(pod)
        for job in self.jobs.values():
            self._advance_job(job)
        self._advance_deployment()

    def _forget_pod(self, pod: Object) -> None:
        uid = pod["metadata"]["uid"]
        self.pods.pop(uid)
        self.reports.pop(uid, None)
        self.last_reports.pop(uid, None)

    def kill_pod(self, pod: Object) -> None:
        pod["metadata"]["deletionTimestamp"] = stamp(self.now)

    def _make_pod(self, owner: Object, template: Object, labels: Object) -> None:
        name, uid = owner["metadata"]["name"], self._uid()
        if message := self.admission(template):
            self._refuse_pod(owner, f'pods "{name}-{uid}" is forbidden: {message}')
            return
        pod: Object = copy.deepcopy({"metadata": template["metadata"], "spec": template["spec"]})
        pod["metadata"] |= {"name": f"{name}-{uid}", "uid": uid, "creationTimestamp": stamp(self.now)}
        pod["metadata"]["labels"] = pod["metadata"]["labels"] | labels
        pod["status"] = {"phase": "Pending", "conditions": [], "containerStatuses": []}
        self.pods[uid] = pod

    def _refuse_pod(self, owner: Object, message: str) -> None:
        """As the Job controller says it, and the Deployment controller."""
        if owner["kind"] == "Job":
            self.tell(owner, "FailedCreate", f"Error creating: {message}")
            return
        condition = {"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "message": message}
        owner["status"] = {"conditions": [condition]}

    def tell(self, o: Object, reason: str, message: str) -> None:
        """An Event of Kubernetes' own."""
        about = {"kind": o.get("kind", "Pod"), "uid": o["metadata"]["uid"], "name": o["metadata"]["name"]}
        event = {"involvedObject": about, "type": "Warning", "reason": reason, "message": message}
        self.events.append(event | {"metadata": {"name": "e"}, "lastTimestamp": stamp(self.now)})

    def _advance_job(self, job: Object) -> None:
        meta = job["metadata"]
        own = [pod for pod in self.pods.values() if job_uid(pod) == meta["uid"]]
        if job.get("status", {}).get("conditions"):
            return
        ended = {pod["status"]["phase"] for pod in own} - {"Pending", "Running"}
        if ended and job.setdefault("lag", self.job_lag) > 0:
            job["lag"] -= 1
        elif "Succeeded" in ended:
            self._end_job(job, "Complete")
        elif "Failed" in ended:
            self._end_job(job, "Failed")
        elif not own:
            labels = {"batch.kubernetes.io/controller-uid": meta["uid"], "batch.kubernetes.io/job-name": meta["name"]}
            self._make_pod(job, job["spec"]["template"], labels)

    def _end_job(self, job: Object, kind: str) -> None:
        job["status"] = {"conditions": [{"type": kind, "status": "True", "lastTransitionTime": stamp(self.now)}]}

    def _advance_deployment(self) -> None:
        if self.deployment is None:
            return
        spec = self.deployment["spec"]
        wanted_hash = spec["template"]["metadata"]["annotations"][names.ANNOTATION_TEMPLATE_HASH]
        current = [pod for pod in self.serving if template_hash(pod) == wanted_hash]
        former = [pod for pod in self.serving if template_hash(pod) != wanted_hash]
        for pod in [*former, *current[spec["replicas"] :]]:
            self.kill_pod(pod)
        tried = (wanted_hash, spec["replicas"], self.deployment["metadata"]["annotations"].get(NUDGED))
        if not former and len(current) < spec["replicas"] and not self._is_sulking(tried):
            self.deployment["status"] = {}
            self.tried = tried
            for _ in range(spec["replicas"] - len(current)):
                self._make_pod(self.deployment, spec["template"], {})

    def _is_sulking(self, tried: tuple[str, int, str | None]) -> bool:
        """A ReplicaSet whose pods were refused waits long before it tries again, unless its Deployment is touched."""
        assert self.deployment is not None
        return bool(self.deployment.get("status", {}).get("conditions")) and tried == self.tried

    def _advance_pod(self, pod: Object) -> None:
        status = pod["status"]
        if status["phase"] == "Pending" and not pod["spec"].get("nodeName"):
            self._schedule(pod)
        elif status["phase"] == "Pending":
            self._start(pod, restarts=0)
        elif status["phase"] == "Running":
            self._work(pod)

    def _schedule(self, pod: Object) -> None:
        if (refusal := self.can_schedule(pod)) == "":
            return
        condition = {"type": "PodScheduled", "status": "True", "lastTransitionTime": stamp(self.now)}
        if refusal:
            condition |= {"status": "False", "reason": "Unschedulable", "message": refusal}
        else:
            pod["spec"]["nodeName"] = NODE
        pod["status"]["conditions"] = [condition]

    def _start(self, pod: Object, restarts: int) -> None:
        if (waiting := self.kubelet(pod)) is not None:
            state = {"name": names.CONTAINER, "restartCount": 0, "state": {"waiting": waiting}}
            pod["status"]["containerStatuses"] = [state] if waiting else []
            return
        config = config_of(pod)
        stage = {"prepare": Stage.PREPARE, "serve": Stage.SERVE}.get(component(pod), Stage.CLEANUP)
        former = pod["status"]["containerStatuses"]
        last = {"lastState": former[0]["state"]} if former and "terminated" in former[0]["state"] else {}
        state = {"running": {"startedAt": stamp(self.now)}}
        pod["status"]["phase"] = "Running"
        pod["status"]["containerStatuses"] = [
            {"name": names.CONTAINER, "restartCount": restarts, "state": state, **last}
        ]
        uid = pod["metadata"]["uid"]
        if uid in self.reports:
            self.last_reports[uid] = self.reports[uid]
        begun = self.now + timedelta(milliseconds=137)
        self.reports[uid] = Report(
            pod_uid=uid,
            spec_hash=config.spec_hash,
            stage=stage,
            state=State.RUNNING,
            started_at=begun,
            progress=Progress(phase="SourceOpened", started_at=begun),
        )

    def _work(self, pod: Object) -> None:
        container = pod["status"]["containerStatuses"][0]
        if "terminated" in container["state"]:
            self._start(pod, container["restartCount"] + 1)
            return
        report = self.reports[pod["metadata"]["uid"]]
        if report.state is not State.RUNNING:
            self._seal_behind(pod, report)
            return
        run = self._run_of(pod)
        if (self.now - report.started_at) < timedelta(milliseconds=run.milliseconds):
            return
        self._end_work(pod, run)

    def _seal_behind(self, pod: Object, report: Report) -> None:
        """A step further: in memory, half written, sealed."""
        key = config_of(pod).shards_key
        if report.sealing is None or report.sealing.state in (SealingState.SEALED, SealingState.FAILED) or not key:
            return
        if report.sealing.state is SealingState.PENDING:
            sealing = Sealing(state=SealingState.WRITING, done=1, total=2, started_at=self.now)
        else:
            self.sealed.add(key)
            update = {"state": SealingState.SEALED, "done": 2, "ended_at": self.now}
            sealing = report.sealing.model_copy(update=update)
        self.reports[pod["metadata"]["uid"]] = report.model_copy(update={"sealing": sealing})

    def _run_of(self, pod: Object) -> Run:
        behaviours = {"prepare": self.prepare, "serve": self._serve}
        behaviour = behaviours.get(component(pod))
        return behaviour(config_of(pod)) if behaviour else self.cleanup

    def _serve(self, config: WorkerConfig) -> Run:
        wanted = result_of(config, self.revision, None, self.chooses).source_fingerprint
        if config.source_fingerprint != wanted:
            return failing("SourceChanged", exits.SOURCE_CHANGED, "The source changed.")
        return self.serve(config)

    def _end_work(self, pod: Object, run: Run) -> None:
        uid, serves = pod["metadata"]["uid"], component(pod) == names.COMPONENT_SERVE
        report, config = self.reports[uid], config_of(pod)
        tier = ("Artifacts" if config.shards_key in self.sealed else "Source") if serves else None
        half = timedelta(milliseconds=run.milliseconds // 2)
        done = report.started_at + 2 * half
        phases = tuple(
            PhaseReport(
                name=name,
                started_at=report.started_at + n * half,
                milliseconds=max(0, run.milliseconds // 2),
                bytes=500_000,
            )
            for n, name in enumerate(("SourceOpened", "Read" if tier == "Artifacts" else "Sharded"))
        )
        if run.failure:
            update: Object = {"state": State.FAILED, "ended_at": done, "failure": run.failure, "devices": run.devices}
        elif serves:
            update = {"state": State.READY, "ready_at": done, "tier": tier, "notes": run.notes, "devices": run.devices}
            if config.seal is Seal.BEHIND and tier == "Source":
                update["sealing"] = Sealing(state=SealingState.PENDING, total=2)
        else:
            result = result_of(config, self.revision, run.builds, self.chooses)
            result = result.model_copy(
                update={"quarantined": run.quarantined, "sizing": run.sizing, "server": run.server}
            )
            if result.shards_key and config.seal is Seal.BEFORE:
                self.sealed.add(result.shards_key)
            update = {"state": State.SUCCEEDED, "ended_at": done, "result": result, "notes": run.notes}
        update |= {"phases": phases, "progress": None, "source_traffic": run.traffic}
        self.reports[uid] = report.model_copy(update=update)
        if serves and run.failure is None:
            ready = {"type": "Ready", "status": "True", "lastTransitionTime": stamp(self.now)}
            pod["status"]["conditions"] = [*pod["status"]["conditions"], ready]
            return
        container = pod["status"]["containerStatuses"][0]
        ended = {"exitCode": run.exit_code, "reason": "Error" if run.failure else "Completed"}
        times = {"startedAt": container["state"]["running"]["startedAt"], "finishedAt": stamp(self.now)}
        container["state"] = {"terminated": ended | times}
        if not serves:
            pod["status"]["phase"] = "Failed" if run.failure else "Succeeded"

    def crash(self, pod: Object, exit_code: int = 137, reason: str = "OOMKilled", message: str = "") -> None:
        """The container ends, whatever it was doing. `message`: the end of its log."""
        container = pod["status"]["containerStatuses"][0]
        times = {"startedAt": container["state"]["running"]["startedAt"], "finishedAt": stamp(self.now)}
        container["state"] = {"terminated": {"exitCode": exit_code, "reason": reason, "message": message, **times}}
        pod["status"]["conditions"] = [c for c in pod["status"]["conditions"] if c["type"] != "Ready"]
        self.reports.pop(pod["metadata"]["uid"], None)
        if component(pod) != names.COMPONENT_SERVE:
            pod["status"]["phase"] = "Failed"

    # Both together.

    def run(self, steps: int = 40, seconds: float = 1.0) -> None:
        """Passes and steps in turn."""
        for _ in range(steps):
            if self.is_gone:
                return
            self.reconcile()
            self.step(seconds)

    def run_until(self, condition: Callable[["Cluster"], bool], steps: int = 400, seconds: float = 1.0) -> None:
        for _ in range(steps):
            self.reconcile()
            if condition(self):
                return
            self.step(seconds)
        raise AssertionError(f"not within {steps} steps; status is {json.dumps(self.model.get('status'), indent=1)}")

    def run_until_ready(self, steps: int = 400) -> None:
        self.run_until(
            lambda c: c.reason() == ("True", "Serving") and c.condition().observed_generation == c.generation, steps
        )

    @property
    def generation(self) -> int:
        return int(self.model["metadata"]["generation"])


def is_owned(job: Object) -> bool:
    return "ownerReferences" in job["metadata"]


def job_uid(pod: Object) -> str:
    return str(pod["metadata"]["labels"].get("batch.kubernetes.io/controller-uid", ""))


def component(pod: Object) -> str:
    return str(pod["metadata"]["labels"][names.LABEL_COMPONENT])


def template_hash(pod: Object) -> str:
    return str(pod["metadata"]["annotations"].get(names.ANNOTATION_TEMPLATE_HASH, ""))


def config_of(pod: Object) -> WorkerConfig:
    """As the worker gets it."""
    env = {item["name"]: item.get("value") for item in pod["spec"]["containers"][0]["env"]}
    return WorkerConfig.model_validate_json(expanded(env[names.ENV_CONFIG] or ""))


def expanded(value: str) -> str:
    """As the kubelet does it: $(NAME) where it knows the name, and $ for $$."""

    def put(found: re.Match[str]) -> str:
        return "$" if found[0] == "$$" else SERVICE_VARIABLES.get(found[1], found[0])

    return re.sub(r"\$\$|\$\(([^)]*)\)", put, value)
