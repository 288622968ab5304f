"""What has to be put right before a pod can be made at all."""

from neuronmodel_api.reasons import Reason
from neuronmodel_operator.decide.asked import Asked
from neuronmodel_operator.decide.failures import Trouble
from neuronmodel_operator.decide.situation import Situation
from neuronmodel_operator.manifests import instance_type

_HOST_PATH_OFF = (
    "names a path of the node, and this operator does not allow that. Use a claim, or have the operator installed "
    "with allowHostPath."
)


def source_obstacle(s: Situation) -> Trouble | None:
    source = s.asked.spec.model.source
    if source.host_path and not s.settings.allow_host_path:
        return Trouble(Reason.HOST_PATH_NOT_ALLOWED, f"spec.model.source.hostPath {_HOST_PATH_OFF}")
    claim = source.persistent_volume_claim
    return _missing(s, Reason.SOURCE_CLAIM_MISSING, claim.claim_name, "spec.model.source") if claim else None


def artifacts_obstacle(s: Situation) -> Trouble | None:
    if s.asked.has_foreign_claim:
        return Trouble(
            Reason.NAME_TAKEN,
            f"There is a claim {s.asked.artifacts_claim} that was not made for this NeuronModel, and it is left alone. "
            "Name it in spec.artifacts.persistentVolumeClaim, delete it, or give the NeuronModel another name.",
        )
    claim = s.asked.spec.artifacts.persistent_volume_claim
    return _missing(s, Reason.ARTIFACTS_CLAIM_MISSING, claim.claim_name, "spec.artifacts") if claim else None


def scratch_obstacle(s: Situation) -> Trouble | None:
    scratch = s.asked.spec.scratch
    if scratch.host_path and not s.settings.allow_host_path:
        return Trouble(Reason.HOST_PATH_NOT_ALLOWED, f"spec.scratch.hostPath {_HOST_PATH_OFF}")
    claim = scratch.persistent_volume_claim
    return _missing(s, Reason.SCRATCH_CLAIM_MISSING, claim.claim_name, "spec.scratch") if claim else None


def image_obstacle(asked: Asked) -> Trouble | None:
    if asked.image:
        return None
    return Trouble(
        Reason.NO_IMAGE,
        f"Neither spec.worker.image nor the operator's configuration names an image for the engine "
        f"{asked.spec.engine}. Set spec.worker.image.",
    )


def machine_obstacle(s: Situation) -> Trouble | None:
    known, asked = instance_type.machine(s.asked.spec), instance_type.logical_core_config(s.asked.spec)
    if known is None or asked in known.logical_core_configs:
        return None
    possible = " or ".join(str(size) for size in known.logical_core_configs)
    return Trouble(
        Reason.DOES_NOT_FIT,
        f"spec.parallelism.logicalNeuronCoreConfig is {asked}, and a {known.name} makes logical NeuronCores of "
        f"{possible} physical ones alone. Set it to {possible}, or name another instance type in "
        "spec.worker.nodeSelector.",
    )


def placement_obstacle(s: Situation) -> Trouble | None:
    return scratch_obstacle(s) or image_obstacle(s.asked) or machine_obstacle(s)


def obstacle(s: Situation) -> Trouble | None:
    """The first of all."""
    return source_obstacle(s) or artifacts_obstacle(s) or placement_obstacle(s)


def _missing(s: Situation, reason: Reason, claim: str, where: str) -> Trouble | None:
    if not s.children.is_missing(claim):
        return None
    namespace = s.asked.model.namespace
    return Trouble(
        reason,
        f"There is no claim {claim} in namespace {namespace}. Make it, or name another in {where}.",
    )
