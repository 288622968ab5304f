"""Loaded: the worker has loaded everything. It wants the Deployment, and waits for the worker's report."""

from dataclasses import replace
from datetime import timedelta

from neuronmodel_api.phases import StartPhase
from neuronmodel_api.reasons import Reason
from neuronmodel_operator.conditions.verdict import ConditionResult, Verdict, holds, soonest, verdict_on, waits
from neuronmodel_operator.decide import rollout
from neuronmodel_operator.decide.children import Children
from neuronmodel_operator.decide.failures import crashing_until, last_movement, running_problem, start_timeout
from neuronmodel_operator.decide.rollout import Rollout
from neuronmodel_operator.decide.situation import READY_REPORT_GRACE, Situation
from neuronmodel_operator.manifests.deployment import Template, stored
from neuronmodel_operator.manifests.diff import diff, template_diff
from neuronmodel_operator.state.objects import PodView
from neuronmodel_operator.state.plan import EventNote, Manifest


def loaded(s: Situation) -> ConditionResult:
    wanted = rollout.rollout(s)
    apply, events = _deployment(s, wanted) if wanted else ((), ())
    return ConditionResult(verdict=_verdict(s), apply=apply, events=events, wake_after=_wake_after(s))


def _deployment(s: Situation, wanted: Rollout) -> tuple[tuple[Manifest, ...], tuple[EventNote, ...]]:
    manifest = rollout.manifest(s, wanted)
    if s.children.deployment and diff(s.children.deployment.object, manifest) is None:
        return (), ()
    about = ("Deployment", manifest["metadata"]["name"])
    return (manifest,), tuple(replace(note, about=about) for note in _rollout_notes(s.children, wanted))


def _rollout_notes(children: Children, wanted: Rollout) -> tuple[EventNote, ...]:
    if children.deployment is None:
        return (EventNote("Normal", Reason.WORKER_MADE, f"Made the Deployment with image {wanted.template.image}."),)
    notes = []
    former = stored(children.deployment.object)
    if former is None or former.hash != wanted.template.hash:
        notes.append(EventNote("Normal", Reason.WORKER_ROLLED, _replacement_text(former, wanted.template)))
    replicas = children.deployment.object["spec"].get("replicas", 1)
    if replicas != wanted.replicas:
        notes.append(EventNote("Normal", Reason.SCALED, f"From {replicas} to {wanted.replicas} workers."))
    return tuple(notes)


def _replacement_text(former: Template | None, wanted: Template) -> str:
    changed = template_diff(former.manifest, wanted.manifest) if former else None
    difference = f" What changed first: {changed}." if changed else ""
    return f"The worker is replaced; its image is {wanted.image}.{difference}"


def _verdict(s: Situation) -> Verdict:
    if s.asked.replicas == 0:
        return waits(Reason.STOPPED, "No worker is wanted.")
    if not s.artifacts.is_current:
        return waits(Reason.WAITING_FOR_ARTIFACTS, "The worker starts when everything it loads is there.")
    if s.artifacts.rejection:
        return waits(s.artifacts.rejection.reason, f"{s.artifacts.rejection.message} prepare runs again.")
    if s.ready_pods:
        return holds(Reason.LOADED, f"By {', '.join(sorted(pod.name for pod in s.ready_pods))}.")
    if problem := next((t for pod in s.children.current_pods if (t := running_problem(s, pod))), None):
        return verdict_on(problem)
    if not any(pod.started_at for pod in s.children.current_pods):
        return waits(Reason.WAITING_FOR_CONTAINER, "The worker's container has not started.")
    if pod := next((pod for pod in s.children.current_pods if _awaits_devices(s.children, pod)), None):
        return waits(
            Reason.WAITING_FOR_DEVICES,
            f"Another process holds Neuron devices that {pod.name} needs, often the pod before it. It tries until "
            "they are free, for as long as spec.serving.startTimeoutSeconds was when it was made.",
        )
    return waits(Reason.LOADING, "The worker loads; status.workers shows how far it is.")


def _awaits_devices(children: Children, pod: PodView) -> bool:
    report = children.report(pod)
    return bool(report and report.progress and report.progress.phase == StartPhase.DEVICES_AWAITED)


def _wake_after(s: Situation) -> timedelta | None:
    starting = [
        pod for pod in (*s.children.current_pods, *s.children.prepare_pods) if not pod.ready_at and not pod.has_ended
    ]
    stuck = [last_movement(s, pod) + start_timeout(s.asked) - s.now for pod in starting if pod.scheduled_at]
    announced = [pod.ready_at + READY_REPORT_GRACE - s.now for pod in s.children.current_pods if pod.ready_at]
    crashing = [until - s.now for pod in starting if (until := crashing_until(s, pod))]
    return soonest(moment for moment in (*stuck, *announced, *crashing) if moment > timedelta(0))
