"""The existing children of a NeuronModel: its Jobs, Deployment, pods and claims, and the reports of its pods."""

from dataclasses import dataclass
from functools import cached_property

from neuronmodel_api import names
from neuronmodel_api.report import Report
from neuronmodel_operator.state.annotations import Prepared
from neuronmodel_operator.state.objects import Child, EventView, FormerRun, JobView, PodView
from neuronmodel_operator.state.observed import Claim, Observed


@dataclass(frozen=True)
class Children:
    """Typed views of the observed objects, independent of the spec."""

    observed: Observed

    @cached_property
    def deployment(self) -> Child | None:
        return Child(self.observed.deployment) if self.observed.deployment else None

    @cached_property
    def jobs(self) -> tuple[JobView, ...]:
        """The Jobs of `prepare`, the latest attempt last."""
        views = (JobView(job) for job in self.observed.jobs)
        return tuple(sorted((j for j in views if j.component == names.COMPONENT_PREPARE), key=lambda j: j.attempt))

    @cached_property
    def cleanup_job(self) -> JobView | None:
        views = (JobView(job) for job in self.observed.jobs)
        return next((job for job in views if job.component == names.COMPONENT_CLEANUP), None)

    @cached_property
    def in_force(self) -> Prepared | None:
        """The result that the Deployment was made from, whatever the spec is now."""
        return self.deployment.remembered.prepared if self.deployment else None

    def claim(self, name: str) -> Claim:
        return self.observed.claims.get(name, Claim(name, None))

    def is_missing(self, name: str) -> bool:
        return self.claim(name).object is None

    @cached_property
    def pods(self) -> tuple[PodView, ...]:
        return tuple(PodView(pod) for pod in self.observed.pods)

    def pods_of(self, job: JobView) -> tuple[PodView, ...]:
        """Returns the pods of a Job, oldest first."""
        return tuple(pod for pod in self.pods if job.uid == pod.job_uid)

    @cached_property
    def prepare_pods(self) -> tuple[PodView, ...]:
        return tuple(pod for pod in self.pods if pod.component == names.COMPONENT_PREPARE)

    @cached_property
    def serve_pods(self) -> tuple[PodView, ...]:
        return tuple(pod for pod in self.pods if pod.component == names.COMPONENT_SERVE)

    @cached_property
    def current_pods(self) -> tuple[PodView, ...]:
        """Serving pods of the present Deployment, oldest first, except terminating and ended ones."""
        if self.deployment is None:
            return ()
        wanted = self.deployment.annotations.get(names.ANNOTATION_TEMPLATE_HASH)
        live = (pod for pod in self.serve_pods if not pod.is_terminating and not pod.has_ended)
        return tuple(pod for pod in live if pod.template_hash == wanted)

    @property
    def is_answering(self) -> bool:
        """Whether the present Deployment has a worker that answers."""
        return any(pod.ready_at for pod in self.current_pods)

    def report(self, pod: PodView) -> Report | None:
        """Returns the report of the container's current run, if there is one."""
        reports = self.observed.last_reports if isinstance(pod, FormerRun) else self.observed.reports
        return reports.get(pod.uid)

    def former_report(self, pod: PodView) -> Report | None:
        return self.observed.last_reports.get(pod.uid)

    def events_about(self, child: Child, *reasons: str) -> tuple[EventView, ...]:
        """Returns Events about a child, oldest first, without those from before it was created."""
        views = (EventView(event) for event in self.observed.events)
        return tuple(e for e in views if e.about_uid == child.uid and e.reason in reasons and e.at >= child.created_at)
