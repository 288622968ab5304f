"""Turns one look at the cluster into a plan. Pure: no client, no kopf, no clock of its own.

Level-triggered: everything is derived again from what exists, so a pass may be repeated, skipped or cut off between any
two writes, and the next one continues correctly.
"""

from dataclasses import replace
from datetime import datetime, timedelta

from neuronmodel_api import names
from neuronmodel_api.conditions import ConditionType
from neuronmodel_api.reasons import Reason
from neuronmodel_api.status import CacheResult, Condition, NeuronModelStatus, Outcome, Phase, Start
from neuronmodel_operator.conditions.artifacts_ready import artifacts
from neuronmodel_operator.conditions.loaded import loaded
from neuronmodel_operator.conditions.ready import ready
from neuronmodel_operator.conditions.scheduled import scheduled
from neuronmodel_operator.conditions.source_resolved import source
from neuronmodel_operator.conditions.update_available import update
from neuronmodel_operator.conditions.verdict import ConditionResult, Verdict, refused, soonest
from neuronmodel_operator.decide.asked import Asked
from neuronmodel_operator.decide.changes import change_in_force, open_start
from neuronmodel_operator.decide.children import Children
from neuronmodel_operator.decide.refused_writes import write_problem
from neuronmodel_operator.decide.rollout import rollout
from neuronmodel_operator.decide.situation import Situation
from neuronmodel_operator.manifests import hashes, metadata
from neuronmodel_operator.manifests.service import endpoint
from neuronmodel_operator.reconcile.deletion import deletion_step, finalizer_wanted
from neuronmodel_operator.settings import Settings
from neuronmodel_operator.state.annotations import Change
from neuronmodel_operator.state.observed import Observed
from neuronmodel_operator.state.plan import REPORT_WHEN_READY, Plan
from neuronmodel_operator.status.artifacts import (
    artifacts_status,
    is_sealing,
    sizing_status,
    source_status,
    strategy_status,
)
from neuronmodel_operator.status.blocked import blocking_reason
from neuronmodel_operator.status.events import artifact_events, events, refusal_events
from neuronmodel_operator.status.starts import updated_starts
from neuronmodel_operator.status.summary import with_summary
from neuronmodel_operator.status.timeline import load_milliseconds
from neuronmodel_operator.status.workers import least_far, workers

REPORT_WHILE_STARTING = timedelta(seconds=2)
REPORT_WHILE_SEALING = timedelta(seconds=5)


def reconcile(observed: Observed, now: datetime, settings: Settings) -> Plan:
    # Milliseconds, so that times are equal after a round trip through JSON.
    s = Situation(observed, now.replace(microsecond=now.microsecond // 1000 * 1000), settings)
    return _deletion_plan(s) if s.asked.model.deletion_requested_at else _serving_plan(s)


def _serving_plan(s: Situation) -> Plan:
    steps = {
        ConditionType.SOURCE_RESOLVED: source(s),
        ConditionType.ARTIFACTS_READY: artifacts(s),
        ConditionType.SCHEDULED: scheduled(s),
        ConditionType.LOADED: loaded(s),
    }
    summary = ready(s, [step.verdict for step in steps.values()])
    steps = {ConditionType.READY: summary, **steps, ConditionType.UPDATE_AVAILABLE: update(s)}
    status = _status(s, {kind: step.verdict for kind, step in steps.items()})
    every = tuple(steps.values())
    notes = [
        *(note for step in every for note in step.events),
        *events(s.asked.status, status),
        *artifact_events(s, status),
        *refusal_events(s, status),
    ]
    return Plan(
        finalizer=_finalizer(s),
        delete=tuple(ref for step in every for ref in step.delete),
        apply=tuple(manifest for step in every for manifest in step.apply),
        create=tuple(manifest for step in every for manifest in step.create),
        status=status,
        events=tuple(dict.fromkeys(notes)),
        wake_after=_wake_after(every),
        report_interval=_report_interval(s),
    )


def _deletion_plan(s: Situation) -> Plan:
    step = deletion_step(s)
    problems = [write_problem(refusal).message for refusal in s.observed.refusals]
    is_last = step.plan.finalizer is False or names.FINALIZER not in s.asked.model.finalizers
    if is_last and not problems:
        return step.plan
    verdict = refused(Reason.TERMINATING, " ".join([step.message, *problems]))
    conditions = _conditions(s, {ConditionType.READY: verdict})
    others = tuple(c for c in s.asked.status.conditions if c.type is not ConditionType.READY)
    status = s.asked.status.model_copy(
        update={
            "observed_generation": s.asked.model.generation,
            "phase": Phase.TERMINATING,
            "conditions": (*conditions, *others),
            "workers": workers(s),
        }
    )
    status = with_summary(status, conditions[0])
    notes = (*step.plan.events, *refusal_events(s, status))
    return replace(step.plan, status=status, events=notes)


def _finalizer(s: Situation) -> bool | None:
    wanted, there = finalizer_wanted(s), names.FINALIZER in s.asked.model.finalizers
    return None if wanted == there else wanted


def _wake_after(steps: tuple[ConditionResult, ...]) -> timedelta | None:
    wanted = soonest(step.wake_after for step in steps)
    return None if wanted is None else max(wanted, timedelta(milliseconds=100))


def _report_interval(s: Situation) -> timedelta | None:
    running = [
        pod
        for pod in (*s.children.prepare_pods, *s.children.serve_pods)
        if pod.running_since and not pod.is_terminating
    ]
    if not running:
        return None
    settled = all(pod.ready_at and s.children.report(pod) for pod in running) and bool(s.ready_pods)
    if not settled:
        return REPORT_WHILE_STARTING
    return REPORT_WHILE_SEALING if is_sealing(s.children) else REPORT_WHEN_READY


# Status.


def _status(s: Situation, verdicts: dict[ConditionType, Verdict]) -> NeuronModelStatus:
    wanted = rollout(s)
    summary = verdicts[ConditionType.READY]
    starts = updated_starts(s, _change(s), blocking_reason(summary.status, summary.reason))
    last_load, last_cache = _last(s.asked, starts)
    conditions = _conditions(s, verdicts)
    status = NeuronModelStatus(
        observed_generation=s.asked.model.generation,
        phase=_phase(s.children, verdicts),
        conditions=conditions,
        strategy=strategy_status(s),
        source=source_status(s),
        artifacts=artifacts_status(s),
        sizing=sizing_status(s),
        endpoint=endpoint(s.asked.model),
        image=wanted.template.image if wanted else s.asked.image,
        replicas=len(s.children.current_pods),
        selector=",".join(f"{k}={v}" for k, v in metadata.selector(s.asked.model, names.COMPONENT_SERVE).items()),
        workers=workers(s),
        progress=least_far(s),
        last_load=last_load,
        last_cache=last_cache,
        starts=starts,
    )
    return with_summary(status, conditions[0])


def _change(s: Situation) -> Change:
    """Returns the change in force: that of the Deployment if it serves the present spec, as a change of the spec that
    changes no pod begins no start."""
    wanted = rollout(s)
    if (
        wanted
        and s.artifacts.prepared
        and wanted.is_kept
        and wanted.spec_hash == hashes.spec_hash(s.asked.target, s.artifacts.prepared)
    ):
        return wanted.change
    return change_in_force(s)


def _conditions(s: Situation, verdicts: dict[ConditionType, Verdict]) -> tuple[Condition, ...]:
    return tuple(_condition(s, kind, verdict) for kind, verdict in verdicts.items())


def _condition(s: Situation, kind: ConditionType, verdict: Verdict) -> Condition:
    before = s.asked.status.condition(kind)
    return Condition(
        type=kind,
        status=verdict.status,
        reason=verdict.reason,
        message=verdict.message,
        last_transition_time=before.last_transition_time if before and before.status == verdict.status else s.now,
        observed_generation=s.asked.model.generation,
    )


def _phase(children: Children, verdicts: dict[ConditionType, Verdict]) -> Phase:
    summary = verdicts[ConditionType.READY]
    if summary.status == "True":
        return Phase.READY
    if summary.reason in (Reason.SUSPENDED, Reason.SCALED_TO_ZERO):
        return Phase.SUSPENDED
    if summary.status == "False":
        return Phase.FAILED
    if verdicts[ConditionType.ARTIFACTS_READY].status == "True":
        return Phase.STARTING
    return Phase.PREPARING if children.jobs else Phase.PENDING


def _last(asked: Asked, starts: tuple[Start, ...]) -> tuple[str | None, CacheResult | None]:
    """Returns load time and cache result of the latest completed start; before one is completed, the cache result of
    the running one."""
    for start in starts:
        if start.outcome is Outcome.READY and (load := load_milliseconds(start)) is not None:
            return f"{load / 1000:.1f}s", start.cache
    if asked.status.last_load:  # of a start that is no longer kept
        return asked.status.last_load, asked.status.last_cache
    started = open_start(starts)
    return None, started.cache if started else None
