"""The desired Deployment, and the rule that an upgrade of the operator alone restarts no worker.

The pod template in force is kept on the Deployment, with the hash of what requested it (`state.annotations`). While
that hash is the same, the kept template is applied; what would be rendered now only shows as `UpdateAvailable`.
"""

from dataclasses import dataclass, replace
from datetime import datetime

from neuronmodel_api import names
from neuronmodel_api.reasons import Reason
from neuronmodel_operator.decide.asked import Asked
from neuronmodel_operator.decide.changes import change_in_force
from neuronmodel_operator.decide.children import Children
from neuronmodel_operator.decide.failures import running_problem
from neuronmodel_operator.decide.network_source import check_seconds
from neuronmodel_operator.decide.placement import placement_problem
from neuronmodel_operator.decide.preconditions import unmet_precondition
from neuronmodel_operator.decide.situation import Situation, once_a_look
from neuronmodel_operator.manifests import hashes
from neuronmodel_operator.manifests.deployment import Template, deployment, render, stored
from neuronmodel_operator.manifests.pod import WorkerPod
from neuronmodel_operator.manifests.worker_config import serve_config
from neuronmodel_operator.state.annotations import NUDGED, PREPARED, PREPARED_ON, SPEC_HASH, Change, Prepared, encode
from neuronmodel_operator.state.objects import Child, pull_of
from neuronmodel_operator.state.plan import Manifest

NUDGE_SECONDS = 30
"""How often a refused pod is retried, in seconds: a ReplicaSet's own backoff grows to 16 minutes."""

_MENDED_BY_AN_IMAGE = frozenset({Reason.IMAGE_PULL_FAILED, Reason.NO_ENGINE, Reason.CONTAINER_REFUSED})


@dataclass(frozen=True)
class Rollout:
    template: Template
    prepared: Prepared | None
    spec_hash: str
    image_defaulted: bool
    change: Change
    """Why the template is as it is, or why its replicas are requested again."""
    replicas: int
    is_kept: bool
    """Whether the template is the one in force."""


@once_a_look
def rollout(s: Situation) -> Rollout | None:
    """Returns the desired rollout, or None if nothing was prepared yet and nothing serves."""
    fresh, kept = _fresh(s), _kept(s)
    if kept is None or fresh is None:
        # What serves continues; nothing is started that is not what the spec requests now.
        return fresh or (kept and replace(kept, replicas=min(kept.replicas, _existing_replicas(s.children))))
    following = _following(s, kept, fresh)
    return kept if _is_untried(s, kept, following) else following


def awaits_trial(s: Situation) -> bool:
    """Whether an answering worker is to be replaced by one with another image, which may be mistyped: `prepare` runs
    with that image first."""
    fresh, kept = _fresh(s), _kept(s)
    return kept is not None and fresh is not None and _is_untried(s, kept, _following(s, kept, fresh))


def _following(s: Situation, kept: Rollout, fresh: Rollout) -> Rollout:
    """Returns the rollout that should follow the one in force."""
    if fresh.spec_hash == kept.spec_hash:
        return fresh if _may_rerender(s) else kept
    unchanged = _fresh_with_kept_timeout(s, kept)
    return _without_restart(unchanged, kept) if unchanged and unchanged.template.hash == kept.template.hash else fresh


def _is_untried(s: Situation, kept: Rollout, following: Rollout) -> bool:
    wanted = pull_of(following.template.manifest)
    if wanted == pull_of(kept.template.manifest) or not s.children.is_answering or not s.asked.replicas:
        return False
    return not s.artifacts.has_run(wanted)


def manifest(s: Situation, wanted: Rollout) -> Manifest:
    annotations = {
        SPEC_HASH: wanted.spec_hash,
        names.ANNOTATION_CHANGE: encode(wanted.change),
        names.ANNOTATION_IMAGE_DEFAULTED: "true" if wanted.image_defaulted else "false",
    }
    if wanted.prepared:
        annotations[PREPARED] = encode(wanted.prepared)
    if claim_uid := _prepared_on(s, wanted):
        annotations[PREPARED_ON] = claim_uid
    if nudged := _nudged(s):
        annotations[NUDGED] = nudged
    return deployment(s.asked.model, wanted.template, wanted.replicas, annotations)


def _prepared_on(s: Situation, wanted: Rollout) -> str | None:
    """Returns the UID of the claim that the result was prepared on. For a result in force it is the recorded one, if
    any: the claim may be a new one by now."""
    if s.children.deployment and wanted.prepared == s.children.in_force:
        return s.children.deployment.remembered.prepared_on
    claim = s.children.claim(s.asked.artifacts_claim).object
    return Child(claim).uid if claim else None


def pending_update(s: Situation) -> Template | None:
    """Returns the template that would be rendered now, if it differs from the one in force and is held back."""
    wanted = rollout(s)
    fresh = _fresh_with_kept_timeout(s, wanted) if wanted and wanted.is_kept else None
    if wanted is None or fresh is None or fresh.spec_hash != wanted.spec_hash:
        return None
    return fresh.template if fresh.template.hash != wanted.template.hash else None


def _fresh_with_kept_timeout(s: Situation, kept: Rollout) -> Rollout | None:
    """Returns the rollout as rendered now, but with the kept start timeout: a worker keeps the value that it started
    with, as changing it restarts nothing."""
    return _fresh(s, kept.template.start_timeout_seconds)


@once_a_look
def _fresh(s: Situation, start_timeout_seconds: int | None = None) -> Rollout | None:
    """Returns the rollout that this operator renders for the spec; None if it isn't prepared or a precondition is not
    met."""
    if s.artifacts.prepared is None or s.asked.image is None or unmet_precondition(s):
        return None
    timeout = s.asked.spec.serving.start_timeout_seconds if start_timeout_seconds is None else start_timeout_seconds
    pod = WorkerPod(
        model=s.asked.model,
        component=names.COMPONENT_SERVE,
        image=s.asked.image,
        artifacts_claim=s.asked.artifacts_claim,
        config=serve_config(
            s.asked.model, s.artifacts.strategy, s.artifacts.prepared.result, timeout, check_seconds(s)
        ),
        # A result that was rebuilt under the same keys still has to reach a worker that gave up on the old one.
        annotations={names.ANNOTATION_ATTEMPT: str(s.artifacts.prepared.attempt)} | _restart(s.asked),
        sizing=s.artifacts.prepared.result.sizing,
        server=server.kind if (server := s.artifacts.prepared.result.server) else None,
        proxy=s.settings.proxy,
    )
    return Rollout(
        template=render(pod),
        prepared=s.artifacts.prepared,
        spec_hash=hashes.spec_hash(s.asked.target, s.artifacts.prepared),
        image_defaulted=s.asked.spec.worker.image is None,
        change=change_in_force(s),
        replicas=s.asked.replicas,
        is_kept=False,
    )


@once_a_look
def _kept(s: Situation) -> Rollout | None:
    if s.children.deployment is None:
        return None
    template = stored(s.children.deployment.object)
    remembered = s.children.deployment.remembered
    if template is None or remembered.change is None:
        return None
    resumes = s.asked.replicas > 0 and remembered.change.target == s.asked.target and not _existing_replicas(s.children)
    return Rollout(
        template=template,
        prepared=remembered.prepared,
        spec_hash=s.children.deployment.annotations.get(SPEC_HASH, ""),
        image_defaulted=s.children.deployment.annotations.get(names.ANNOTATION_IMAGE_DEFAULTED) == "true",
        change=change_in_force(s) if resumes else remembered.change,
        replicas=s.asked.replicas,
        is_kept=True,
    )


def _without_restart(fresh: Rollout, kept: Rollout) -> Rollout:
    """Returns the kept rollout for a change of the spec that changes no pod: no start begins."""
    change = kept.change.model_copy(update={"target": fresh.change.target})
    return replace(fresh, change=change, is_kept=True)


def _may_rerender(s: Situation) -> bool:
    """Whether a new rendering may be applied without restarting a working worker: there is none, or its image prevents
    it from running."""
    if not _existing_replicas(s.children):
        return True
    if s.children.is_answering:
        return False
    if placement_problem(s, s.children.current_pods, s.children.deployment):
        return True
    problems = (running_problem(s, pod) for pod in s.children.current_pods)
    return any(problem and problem.reason in _MENDED_BY_AN_IMAGE for problem in problems)


def _existing_replicas(children: Children) -> int:
    return int(children.deployment.object["spec"].get("replicas", 1)) if children.deployment else 0


def _restart(asked: Asked) -> dict[str, str]:
    return {names.ANNOTATION_RESTART: asked.restart} if asked.restart else {}


def _nudged(s: Situation) -> str | None:
    if s.children.deployment is None:
        return None
    last = s.children.deployment.annotations.get(NUDGED)
    if len(s.children.current_pods) >= s.asked.replicas or not placement_problem(
        s, s.children.current_pods, s.children.deployment
    ):
        return last
    since = datetime.fromisoformat(last) if last else s.children.deployment.created_at
    return s.now.isoformat(timespec="seconds") if (s.now - since).total_seconds() >= NUDGE_SECONDS else last
