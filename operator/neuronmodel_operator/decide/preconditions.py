"""Preconditions that must be met before a pod can be created at all. Each function returns what is not met, or None."""

from urllib.parse import urlsplit

from neuronmodel_api.reasons import Reason
from neuronmodel_api.sources import NetworkSource
from neuronmodel_operator.decide.asked import Asked
from neuronmodel_operator.decide.failures import Problem
from neuronmodel_operator.decide.situation import Situation
from neuronmodel_operator.manifests import instance_type

_HOST_PATH_OFF = (
    "names a path of the node, and this operator does not allow that. Use a claim, or have the operator installed "
    "with allowHostPath."
)


def unmet_source_precondition(s: Situation) -> Problem | None:
    source = s.asked.spec.model.source
    if source.host_path and not s.settings.allow_host_path:
        return Problem(Reason.HOST_PATH_NOT_ALLOWED, f"spec.model.source.hostPath {_HOST_PATH_OFF}")
    if source.on_network:
        return _refused_endpoint(s, source.on_network)
    claim = source.persistent_volume_claim
    return _missing(s, Reason.SOURCE_CLAIM_MISSING, claim.claim_name, "spec.model.source") if claim else None


def _refused_endpoint(s: Situation, source: NetworkSource) -> Problem | None:
    """Returns a problem for an endpoint that pods must not be made to ask: whoever may create a NeuronModel could else
    reach any host inside."""
    allowed, used = s.settings.sources[type(source)].endpoints, source.endpoint or source.PUBLIC_ENDPOINT
    field = f"spec.model.source.{source.member()}.endpoint"
    named = f"{field} is {used}" if source.endpoint else f"{field} is absent, which means {used}"
    if used.startswith("http://") and not s.settings.allow_http:
        return Problem(
            Reason.ENDPOINT_NOT_ALLOWED,
            f"{named}, and this operator lets nothing be read without TLS. Use an endpoint that begins with https://, "
            "or have the operator installed with sources.allowHTTP.",
        )
    if _normalized(used) in {_normalized(each) for each in allowed}:
        return None
    return Problem(
        Reason.ENDPOINT_NOT_ALLOWED,
        f"{named}, and this operator lets NeuronModels read from {' and '.join(allowed)} alone. Use that, or have "
        f"the operator installed with the other one in sources.{source.member()}.endpoints.",
    )


def _normalized(url: str) -> tuple[str, str, int | None, str]:
    """Returns what two spellings of one endpoint have in common; what is no URL is like itself alone."""
    try:
        parts = urlsplit(url)
        port = {"http": 80, "https": 443}.get(parts.scheme) if parts.port is None else parts.port
    except ValueError:
        return url, "", None, ""
    return parts.scheme, (parts.hostname or "").rstrip("."), port, parts.path.rstrip("/")


def unmet_artifacts_precondition(s: Situation) -> Problem | None:
    if s.asked.has_foreign_claim:
        return Problem(
            Reason.NAME_TAKEN,
            f"There is a claim {s.asked.artifacts_claim} that was not made for this NeuronModel, and it is left alone. "
            "Name it in spec.artifacts.persistentVolumeClaim, delete it, or give the NeuronModel another name.",
        )
    claim = s.asked.spec.artifacts.persistent_volume_claim
    return _missing(s, Reason.ARTIFACTS_CLAIM_MISSING, claim.claim_name, "spec.artifacts") if claim else None


def unmet_scratch_precondition(s: Situation) -> Problem | None:
    scratch = s.asked.spec.scratch
    if scratch.host_path and not s.settings.allow_host_path:
        return Problem(Reason.HOST_PATH_NOT_ALLOWED, f"spec.scratch.hostPath {_HOST_PATH_OFF}")
    claim = scratch.persistent_volume_claim
    return _missing(s, Reason.SCRATCH_CLAIM_MISSING, claim.claim_name, "spec.scratch") if claim else None


def unmet_image_precondition(asked: Asked) -> Problem | None:
    if asked.image:
        return None
    return Problem(
        Reason.NO_IMAGE,
        f"Neither spec.worker.image nor the operator's configuration names an image for the engine "
        f"{asked.spec.engine}. Set spec.worker.image.",
    )


def unmet_machine_precondition(s: Situation) -> Problem | None:
    known, asked = instance_type.machine(s.asked.spec), instance_type.logical_core_config(s.asked.spec)
    if known is None or asked in known.logical_core_configs:
        return None
    possible = " or ".join(str(size) for size in known.logical_core_configs)
    return Problem(
        Reason.DOES_NOT_FIT,
        f"spec.parallelism.logicalNeuronCoreConfig is {asked}, and a {known.name} makes logical NeuronCores of "
        f"{possible} physical ones alone. Set it to {possible}, or name another instance type in "
        "spec.worker.nodeSelector.",
    )


def unmet_placement_precondition(s: Situation) -> Problem | None:
    return unmet_scratch_precondition(s) or unmet_image_precondition(s.asked) or unmet_machine_precondition(s)


def unmet_precondition(s: Situation) -> Problem | None:
    """Returns the first precondition that is not met."""
    return unmet_source_precondition(s) or unmet_artifacts_precondition(s) or unmet_placement_precondition(s)


def _missing(s: Situation, reason: Reason, claim: str, where: str) -> Problem | None:
    if not s.children.is_missing(claim):
        return None
    namespace = s.asked.model.namespace
    return Problem(
        reason,
        f"There is no claim {claim} in namespace {namespace}. Make it, or name another in {where}.",
    )
