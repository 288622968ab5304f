"""One look at the cluster, read: what is asked for, what was prepared, which pods count. The phases decide from it."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property
from typing import Final, Literal

from neuronmodel_api import exits, names
from neuronmodel_api.config import Seal, Strategy
from neuronmodel_api.reasons import Reason
from neuronmodel_api.report import Report
from neuronmodel_api.spec import NeuronModelSpec
from neuronmodel_api.status import NeuronModelStatus
from neuronmodel_operator.manifests import hashes, instance_type
from neuronmodel_operator.manifests.deployment import stored
from neuronmodel_operator.settings import Settings
from neuronmodel_operator.state.annotations import SPEC_HASH, Prepared
from neuronmodel_operator.state.objects import Child, EventView, JobView, PodView, Pull, selected_instance_type
from neuronmodel_operator.state.observed import Claim, Model, Observed, Refusal

SHAREABLE_MODES: Final = frozenset({"ReadWriteMany", "ReadOnlyMany"})
RESULT_GRACE: Final = timedelta(seconds=30)
"""How long after a Job's success its pod's message may take to be seen, before the result counts as lost."""
READY_REPORT_GRACE: Final = timedelta(seconds=5)
"""How long a ready pod's last report may take: with it a start's account is whole."""


@dataclass(frozen=True)
class Rejection:
    """What was prepared no longer holds, as a worker found or the claim shows."""

    reason: str
    message: str
    at: datetime | None
    pod: PodView | None = None
    """That found it so."""

    @property
    def is_of_source(self) -> bool:
        return self.reason == Reason.SOURCE_CHANGED


@dataclass(frozen=True)
class Situation:
    observed: Observed
    now: datetime
    settings: Settings

    # What is asked for.

    @property
    def model(self) -> Model:
        return self.observed.model

    @property
    def spec(self) -> NeuronModelSpec:
        return self.model.spec

    @property
    def status(self) -> NeuronModelStatus:
        """As it was last written."""
        return self.model.status

    @cached_property
    def asked_strategy(self) -> Strategy:
        """Absent: Auto."""
        if self.spec.sharding.strategy:
            return self.spec.sharding.strategy
        return Strategy.SHARD_ON_COMPILE if self._is_from_before_auto else Strategy.AUTO

    @cached_property
    def _is_from_before_auto(self) -> bool:
        """An absent strategy was ShardOnCompile once. What was prepared so stays while the same is asked for: an
        upgrade of the operator alone rebuilds and restarts nothing."""
        told = self.status.strategy
        if told and told.reason != Reason.NOT_SPECIFIED:
            return False
        former = self._hash_of_inputs(Strategy.SHARD_ON_COMPILE)
        in_force = self.in_force is not None and self.in_force.inputs_hash == former
        return in_force or any(job.inputs_hash == former for job in self.jobs)

    @cached_property
    def strategy(self) -> Strategy:
        """What a worker serves by; Auto only as long as `prepare` has not chosen for what is asked for now."""
        if self.asked_strategy is not Strategy.AUTO or self.prepared is None:
            return self.asked_strategy
        return self.prepared.strategy

    @property
    def seals_behind(self) -> bool:
        """Whether the worker does, where it finds no shards."""
        if self.strategy is not Strategy.SHARD_ON_COMPILE:
            return False
        return hashes.seal_asked(self.spec, self.strategy) is Seal.BEHIND

    @property
    def artifacts_claim(self) -> str:
        named = self.spec.artifacts.persistent_volume_claim
        return named.claim_name if named else names.templated_claim(self.model.name)

    @cached_property
    def inputs_hash(self) -> str:
        return self._hash_of_inputs(self.asked_strategy)

    def _hash_of_inputs(self, strategy: Strategy) -> str:
        """A version that did not ask which machine it prepared for left another hash: what it made for this very
        instance type is kept, as an upgrade of the operator alone rebuilds nothing."""
        wanted = instance_type.instance_type(self.spec)
        former = hashes.inputs_hash(self.spec, strategy, self.artifacts_claim, "")
        if wanted in self._instance_types(former):
            return former
        return hashes.inputs_hash(self.spec, strategy, self.artifacts_claim, wanted)

    def _instance_types(self, inputs_hash: str) -> set[str | None]:
        """That what was made from these inputs was made for."""
        found = {job.instance_type for job in self.jobs if job.inputs_hash == inputs_hash}
        if self.deployment and self.in_force and self.in_force.inputs_hash == inputs_hash:
            template = stored(self.deployment.object)
            found |= {selected_instance_type(template.manifest)} if template else set()
        return found

    @cached_property
    def target(self) -> str:
        restart = self.model.annotations.get(names.ANNOTATION_RESTART, "")
        return hashes.target_hash(self.spec, self.asked_strategy, restart)

    @property
    def retry(self) -> str:
        return self.model.annotations.get(names.ANNOTATION_RETRY, "")

    @property
    def image(self) -> str | None:
        return self.spec.worker.image or self.settings.worker_images.get(self.spec.engine)

    @property
    def replicas(self) -> int:
        """As rendered: one, when more could not share their volumes."""
        if self.spec.suspend:
            return 0
        wanted = self.spec.serving.replicas
        return min(wanted, 1) if self.unshareable_claim else wanted

    @cached_property
    def unshareable_claim(self) -> str | None:
        """The claim that keeps more than one replica from running, when more are asked for."""
        if self.spec.serving.replicas <= 1:
            return None
        source = self.spec.model.source.persistent_volume_claim
        needed = [self.artifacts_claim, *([source.claim_name] if source else [])]
        return next((name for name in needed if not self._is_shareable(name)), None)

    def _is_shareable(self, name: str) -> bool:
        found = self.claim(name).object
        if found is not None:
            return bool(SHAREABLE_MODES.intersection(found.get("spec", {}).get("accessModes") or ()))
        template = self.spec.artifacts.template
        if template is None or name != names.templated_claim(self.model.name):
            return True  # not known; that it is missing is said elsewhere
        return bool(SHAREABLE_MODES.intersection(template.access_modes))

    def claim(self, name: str) -> Claim:
        return self.observed.claims.get(name, Claim(name, None))

    def is_missing(self, name: str) -> bool:
        return self.claim(name).object is None

    @property
    def has_foreign_claim(self) -> bool:
        """Whether the templated claim's name is that of a claim which is not ours: it is not mounted, nor deleted."""
        claim = self.claim(self.artifacts_claim).object
        if claim is None or self.spec.artifacts.template is None:
            return False
        ours = {names.LABEL_MANAGED_BY: names.MANAGED_BY, names.LABEL_MODEL: self.model.name}
        return not ours.items() <= (claim["metadata"].get("labels") or {}).items()

    # What was prepared.

    @cached_property
    def deployment(self) -> Child | None:
        return Child(self.observed.deployment) if self.observed.deployment else None

    @cached_property
    def jobs(self) -> tuple[JobView, ...]:
        """Of `prepare`, the latest attempt last."""
        views = (JobView(job) for job in self.observed.jobs)
        return tuple(sorted((j for j in views if j.component == names.COMPONENT_PREPARE), key=lambda j: j.attempt))

    @cached_property
    def cleanup_job(self) -> JobView | None:
        views = (JobView(job) for job in self.observed.jobs)
        return next((job for job in views if job.component == names.COMPONENT_CLEANUP), None)

    @cached_property
    def own_jobs(self) -> tuple[JobView, ...]:
        """Of the inputs asked for now, without those that tried an image which is no longer asked for."""
        return tuple(job for job in self.jobs if self.is_for_now(job) and not job.is_going)

    def is_for_now(self, job: JobView) -> bool:
        return job.inputs_hash == self.inputs_hash and job.tries_image in (None, self.image)

    @property
    def latest_attempt(self) -> int:
        """At the inputs asked for now, whether its Job is still there or not; 0: there was none."""
        remembered = self.prepared.attempt if self.prepared else 0
        return max([job.attempt for job in self.own_jobs] + [remembered])

    @property
    def latest_job(self) -> JobView | None:
        return self.own_jobs[-1] if self.own_jobs else None

    @cached_property
    def in_force(self) -> Prepared | None:
        """What the Deployment was made from, whatever is asked for now."""
        return self.deployment.remembered.prepared if self.deployment else None

    @cached_property
    def prepared(self) -> Prepared | None:
        """The latest result for the inputs asked for now."""
        kept = [self.in_force] if self.in_force and self._still_holds(self.in_force) else []
        fresh = [found for job in self.own_jobs if (found := self._result(job)) is not None]
        return max([*kept, *fresh], key=lambda prepared: prepared.attempt, default=None)

    def _still_holds(self, prepared: Prepared) -> bool:
        """Made for what is asked for now, or chosen by Auto and then asked for by name."""
        if prepared.inputs_hash == self.inputs_hash:
            return True
        if self.asked_strategy is not prepared.strategy:
            return False
        return prepared.inputs_hash == self._hash_of_inputs(Strategy.AUTO)

    def has_run(self, pull: Pull) -> bool:
        """Whether a `prepare` of what is asked for now has ended well with this image, pulled so."""
        return any(job.pull == pull and self._result(job) is not None for job in self.own_jobs)

    def _result(self, job: JobView) -> Prepared | None:
        """As soon as the container has ended well: the Job itself says so only seconds later."""
        done = (pod for pod in reversed(self.pods_of(job)) if pod.ended and pod.ended.exit_code == exits.OK)
        reports = (self.report(pod) for pod in done)
        result = next((report.result for report in reports if report and report.result), None)
        return Prepared(inputs_hash=job.inputs_hash, attempt=job.attempt, result=result) if result else None

    @cached_property
    def rejection(self) -> Rejection | None:
        """Of the latest result, by a worker that was made from it, or because its volume has gone."""
        if self.prepared is None:
            return None
        made_from_it = self.current_pods if self.prepared == self.in_force else ()
        for pod in made_from_it:
            # A restarted container may be on its way to find the same: what its former run said still holds.
            for end, report in ((pod.ended, self.report(pod)), (pod.former_end, self.former_report(pod))):
                if end and end.exit_code in exits.PREPARE_AGAIN and not pod.ready_at:
                    fallback = (
                        Reason.SOURCE_CHANGED if end.exit_code == exits.SOURCE_CHANGED else Reason.ARTIFACT_DAMAGED
                    )
                    failure = report.failure if report else None
                    reason, message = (failure.reason, failure.message) if failure else (fallback, "")
                    return Rejection(reason, self.in_users_words(message), end.finished_at, pod)
        return self._claim_made_anew if self.prepared == self.in_force else None

    @property
    def _claim_made_anew(self) -> Rejection | None:
        """Where the claim is another than the one that was prepared on; a worker that answers knows better."""
        found = self.claim(self.artifacts_claim).object
        noted = self.deployment.remembered.prepared_on if self.deployment else None
        if found is None or noted is None or self.is_answering:
            return None
        claim = Child(found)
        if claim.uid == noted or claim.is_going:
            return None
        message = f"What was prepared is not in claim {claim.name}: the volume is new. It has to be built again."
        return Rejection(Reason.ARTIFACTS_MISSING, message, claim.created_at)

    def in_users_words(self, message: str) -> str:
        """The pod's path of the artifacts says nothing to a user; the claim does. (The worker itself names the
        source.)"""
        return message.replace(names.ARTIFACTS_MOUNT, f"claim {self.artifacts_claim}")

    # Pods.

    @cached_property
    def pods(self) -> tuple[PodView, ...]:
        return tuple(PodView(pod) for pod in self.observed.pods)

    def pods_of(self, job: JobView) -> tuple[PodView, ...]:
        """Oldest first."""
        return tuple(pod for pod in self.pods if job.uid == pod.job_uid)

    @cached_property
    def prepare_pods(self) -> tuple[PodView, ...]:
        return tuple(pod for pod in self.pods if pod.component == names.COMPONENT_PREPARE)

    @cached_property
    def serve_pods(self) -> tuple[PodView, ...]:
        return tuple(pod for pod in self.pods if pod.component == names.COMPONENT_SERVE)

    @cached_property
    def current_pods(self) -> tuple[PodView, ...]:
        """Serving pods of the Deployment as it stands, oldest first, without those that go or have ended."""
        if self.deployment is None:
            return ()
        wanted = self.deployment.annotations.get(names.ANNOTATION_TEMPLATE_HASH)
        live = (pod for pod in self.serve_pods if not pod.is_going and not pod.has_ended)
        return tuple(pod for pod in live if pod.template_hash == wanted)

    @property
    def is_answering(self) -> bool:
        """Whether the Deployment as it stands has a worker that does."""
        return any(pod.ready_at for pod in self.current_pods)

    @property
    def is_current(self) -> bool:
        """Whether the Deployment is what is asked for now."""
        if self.deployment is None or self.prepared is None:
            return False
        return self.deployment.annotations.get(SPEC_HASH) == hashes.spec_hash(self.target, self.prepared)

    @cached_property
    def ready_pods(self) -> tuple[PodView, ...]:
        """Those that serve what is asked for now, once their last report is here or overdue."""
        if not self.is_current:
            return ()
        return tuple(pod for pod in self.current_pods if pod.ready_at and self._has_reported(pod, pod.ready_at))

    def _has_reported(self, pod: PodView, ready_at: datetime) -> bool:
        report = self.report(pod)
        return bool(report and report.ready_at) or self.now - ready_at >= READY_REPORT_GRACE

    def report(self, pod: PodView) -> Report | None:
        """Of the container's current run."""
        return self.observed.reports.get(pod.uid)

    def former_report(self, pod: PodView) -> Report | None:
        return self.observed.last_reports.get(pod.uid)

    # What was said about them.

    def events_about(self, child: Child, *reasons: str) -> tuple[EventView, ...]:
        """Oldest first; none from before the child was made."""
        views = (EventView(event) for event in self.observed.events)
        return tuple(e for e in views if e.about_uid == child.uid and e.reason in reasons and e.at >= child.created_at)

    def refusal(self, kinds: Iterable[str], verb: Literal["write", "delete"] = "write") -> Refusal | None:
        """Of a write of ours that is wanted now."""
        return next((r for r in self.observed.refusals if r.kind in kinds and r.verb == verb), None)

    @property
    def is_acted_on(self) -> bool:
        """Whether everything that is asked for now was written."""
        return not any(refusal.verb == "write" for refusal in self.observed.refusals)
