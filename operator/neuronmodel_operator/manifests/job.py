"""The Jobs for prepare and clean-up. A Job is created once and never applied again, as its template is immutable."""

from dataclasses import replace

from neuronmodel_api import exits, names
from neuronmodel_operator.manifests import metadata
from neuronmodel_operator.manifests.hashes import digest
from neuronmodel_operator.manifests.pod import WorkerPod, pod_template
from neuronmodel_operator.state.annotations import FAILURES, INSTANCE_TYPE, TRIES_IMAGE, Change, encode
from neuronmodel_operator.state.plan import Manifest

CLEANUP_TRIES = 6
"""Kubernetes waits 10 s, 20 s, 40 s … between them: about ten minutes, after which clean-up is abandoned."""
CLEANUP_KEPT_SECONDS = 3600


def template_hash(pod: WorkerPod) -> str:
    """Returns the hash of everything that determines the pod, except the parameters of a single run of `prepare`: these
    change with every start and must not recreate a Job."""
    asked = pod.config.model_copy(
        update={"history": None, "keys_in_use": (), "verification": pod.spec.artifacts.verification}
    )
    if asked.network_source:
        asked = asked.with_network_source(asked.network_source.unpinned)
    return digest(pod_template(replace(pod, config=asked)))


def prepare_job(
    pod: WorkerPod, attempt: int, failures: int, retried: str, change: Change, *, tries_image: bool = False
) -> Manifest:
    """Returns the Job for one attempt, which is one pod (except for evictions): the operator itself waits between
    attempts and reports it. `tries_image`: the Job only tests the image."""
    inputs_hash = pod.config.spec_hash
    annotations = {
        names.ANNOTATION_INPUTS_HASH: inputs_hash,
        names.ANNOTATION_TEMPLATE_HASH: template_hash(pod),
        names.ANNOTATION_ATTEMPT: str(attempt),
        names.ANNOTATION_RETRIED: retried,
        names.ANNOTATION_CHANGE: encode(change),
        FAILURES: str(failures),
        INSTANCE_TYPE: pod.config.instance_type,
    }
    if tries_image:
        annotations[TRIES_IMAGE] = pod.image
    name = names.prepare_job(pod.model.name, inputs_hash, attempt)
    return _job(pod, metadata.object_meta(pod.model, name, pod.component, annotations), tries=0)


def cleanup_job(pod: WorkerPod) -> Manifest:
    """Returns the clean-up Job. It has no owner: `kubectl delete --cascade=foreground` would remove an owned one, again
    and again, before it has run."""
    name = names.cleanup_job(pod.model.name, pod.model.uid)
    manifest = _job(
        pod, metadata.unowned_meta(pod.model, name, pod.component, dict(pod.annotations)), tries=CLEANUP_TRIES
    )
    # The operator removes it; but somebody may remove the finalizer by hand.
    manifest["spec"]["ttlSecondsAfterFinished"] = CLEANUP_KEPT_SECONDS
    return manifest


def _job(pod: WorkerPod, meta: Manifest, tries: int) -> Manifest:
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": meta,
        "spec": {
            "backoffLimit": tries,
            "completions": 1,
            "parallelism": 1,
            # A successor only when the one before has ended: two writers of one claim may need one node.
            "podReplacementPolicy": "Failed",
            "podFailurePolicy": {
                "rules": [
                    # An eviction or a lost node is no failed attempt.
                    {
                        "action": "Ignore",
                        "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}],
                    },
                    {
                        "action": "FailJob",
                        "onExitCodes": {
                            "containerName": names.CONTAINER,
                            "operator": "In",
                            "values": sorted(exits.FINAL),
                        },
                    },
                ]
            },
            "template": pod_template(pod),
        },
    }
