"""What was prepared: by which Jobs, with what result, and whether the result is still valid for the present spec."""

from dataclasses import dataclass
from datetime import datetime
from functools import cached_property

from neuronmodel_api import exits
from neuronmodel_api.config import Seal, Strategy
from neuronmodel_api.reasons import Reason
from neuronmodel_api.report import ResolvedSource
from neuronmodel_operator.decide.asked import Asked
from neuronmodel_operator.decide.children import Children
from neuronmodel_operator.manifests import hashes
from neuronmodel_operator.state.annotations import SPEC_HASH, Prepared
from neuronmodel_operator.state.objects import Child, JobView, PodView, Pull


@dataclass(frozen=True)
class Rejection:
    """The prepared artifacts are no longer valid, as a worker found or the claim shows."""

    reason: str
    message: str
    at: datetime | None
    pod: PodView | None = None
    """The pod that found it, in the run that did."""

    @property
    def is_of_source(self) -> bool:
        return self.reason == Reason.SOURCE_CHANGED


@dataclass(frozen=True)
class PreparedArtifacts:
    """Results of `prepare`, for the present spec and for the Deployment in force."""

    asked: Asked

    @property
    def children(self) -> Children:
        return self.asked.children

    @cached_property
    def strategy(self) -> Strategy:
        """The strategy by which a worker serves; Auto only until `prepare` has chosen for the present spec."""
        if self.asked.strategy is not Strategy.AUTO or self.prepared is None:
            return self.asked.strategy
        return self.prepared.strategy

    @property
    def seals_behind(self) -> bool:
        """Whether the worker seals shards while it serves, if there are none."""
        if self.strategy is not Strategy.SHARD_ON_COMPILE:
            return False
        return hashes.seal_asked(self.asked.spec, self.strategy) is Seal.BEHIND

    @cached_property
    def own_jobs(self) -> tuple[JobView, ...]:
        """The Jobs of the present inputs, except those that tested an image which is no longer requested."""
        return tuple(job for job in self.children.jobs if self.is_for_now(job) and not job.is_terminating)

    def is_for_now(self, job: JobView) -> bool:
        return job.inputs_hash == self.asked.inputs_hash and job.tries_image in (None, self.asked.image)

    @property
    def latest_attempt(self) -> int:
        """The number of the latest attempt at the present inputs, even if its Job is gone; 0 if there was none."""
        remembered = self.prepared.attempt if self.prepared else 0
        return max([job.attempt for job in self.own_jobs] + [remembered])

    @property
    def latest_job(self) -> JobView | None:
        return self.own_jobs[-1] if self.own_jobs else None

    @cached_property
    def prepared(self) -> Prepared | None:
        """The latest result for the present inputs, or None."""
        kept = [self.children.in_force] if self.children.in_force and self._still_holds(self.children.in_force) else []
        fresh = [found for job in self.own_jobs if (found := self._result(job)) is not None]
        return max([*kept, *fresh], key=lambda prepared: prepared.attempt, default=None)

    def _still_holds(self, prepared: Prepared) -> bool:
        """Whether a result is valid for the present spec: it was made for it, or Auto chose a strategy that the spec
        now names."""
        if prepared.inputs_hash == self.asked.inputs_hash:
            return True
        if self.asked.strategy is not prepared.strategy:
            return False
        return prepared.inputs_hash == self.asked.hash_of_inputs(Strategy.AUTO)

    def has_run(self, pull: Pull) -> bool:
        """Whether a `prepare` for the present inputs has succeeded with this image and these pull secrets."""
        return any(job.pull == pull and self._result(job) is not None for job in self.own_jobs)

    def _result(self, job: JobView) -> Prepared | None:
        """Returns the result of a Job as soon as its container has succeeded; the Job itself says so only seconds
        later."""
        done = (pod for pod in reversed(self.children.pods_of(job)) if pod.ended and pod.ended.exit_code == exits.OK)
        reports = (self.children.report(pod) for pod in done)
        result = next((report.result for report in reports if report and report.result), None)
        if result is None:
            return None
        return Prepared(
            inputs_hash=job.inputs_hash, attempt=job.attempt, result=result, source_hash=self.asked.source_hash
        )

    @property
    def latest(self) -> Prepared | None:
        """The latest result: for the present inputs, else the one that the Deployment is made from."""
        return self.prepared or self.children.in_force

    @property
    def resolved(self) -> ResolvedSource | None:
        """What the revision of a source on a network was resolved to, by an attempt at the present inputs or at former
        ones of the same source: the pin holds until another one is asked for."""
        for known in (self.prepared, self.children.in_force):
            if known and known.source_hash == self.asked.source_hash:
                return known.result.source
        return None

    @cached_property
    def rejection(self) -> Rejection | None:
        """Why the latest result is rejected: by a worker that was made from it, or because its volume is gone. None if
        it is not."""
        if self.prepared is None:
            return None
        made_from_it = self.children.current_pods if self.prepared == self.children.in_force else ()
        for pod in made_from_it:
            # A restarted container is likely to find the same, so the result of its former run still counts.
            for run in (pod, pod.former_run) if pod.former_end else (pod,):
                end, report = run.ended, self.children.report(run)
                if end and end.exit_code in exits.PREPARE_AGAIN and not pod.ready_at:
                    fallback = (
                        Reason.SOURCE_CHANGED if end.exit_code == exits.SOURCE_CHANGED else Reason.ARTIFACT_DAMAGED
                    )
                    failure = report.failure if report else None
                    reason, message = (failure.reason, failure.message) if failure else (fallback, "")
                    return Rejection(reason, self.asked.in_terms_of_claims(message), end.finished_at, run)
        return self._recreated_claim if self.prepared == self.children.in_force else None

    @property
    def _recreated_claim(self) -> Rejection | None:
        """The rejection if the claim is not the one that was prepared on; a worker that answers proves otherwise."""
        found = self.children.claim(self.asked.artifacts_claim).object
        noted = self.children.deployment.remembered.prepared_on if self.children.deployment else None
        if found is None or noted is None or self.children.is_answering:
            return None
        claim = Child(found)
        if claim.uid == noted or claim.is_terminating:
            return None
        message = f"What was prepared is not in claim {claim.name}: the volume is new. It has to be built again."
        return Rejection(Reason.ARTIFACTS_MISSING, message, claim.created_at)

    @property
    def is_current(self) -> bool:
        """Whether the Deployment matches the present spec and the latest result."""
        if self.children.deployment is None or self.prepared is None:
            return False
        return self.children.deployment.annotations.get(SPEC_HASH) == hashes.spec_hash(self.asked.target, self.prepared)
