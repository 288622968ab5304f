"""The configuration that a worker's pod carries."""

from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from neuronmodel_api import names
from neuronmodel_api.config import History, Server, Strategy, Verification, Weights, WorkerConfig
from neuronmodel_api.report import ResolvedSource, Result
from neuronmodel_api.sources import NetworkSource
from neuronmodel_api.spec import Scratch, Source
from neuronmodel_operator.manifests import instance_type, neuron_config
from neuronmodel_operator.manifests.hashes import revision_moves, seal_asked
from neuronmodel_operator.manifests.pod import DEFAULT_GRACE_SECONDS
from neuronmodel_operator.manifests.quantities import parse_quantity
from neuronmodel_operator.state.observed import ObservedModel

STOPPING_SECONDS = 10
"""The part of the grace period that is left for shutting down after the last answer, in seconds."""


@dataclass(frozen=True)
class PrepareContext:
    """Parameters of one run of `prepare` that are not part of its inputs: changing them is no reason to run it
    again."""

    history: History | None = None
    keys_in_use: tuple[str, ...] = ()
    resolved: ResolvedSource | None = None
    """What an earlier attempt at the same inputs resolved the revision to; the pin holds."""
    looks_closely: bool = False
    """Whether every byte is compared: a worker found damage, which has to be found again."""


def prepare_config(
    model: ObservedModel, strategy: Strategy, spec_hash: str, context: PrepareContext | None = None
) -> WorkerConfig:
    """Returns the configuration of `prepare`; `strategy` may be Auto."""
    spec, context = model.spec, context or PrepareContext()
    return WorkerConfig(
        namespace=model.namespace,
        name=model.name,
        uid=model.uid,
        spec_hash=spec_hash,
        engine=spec.engine,
        strategy=strategy,
        seal=seal_asked(spec, strategy),
        weights=spec.sharding.weights or Weights.STREAMED,
        server=spec.serving.server or Server.OPENAI,
        extra_args=spec.serving.extra_args,
        instance_type=instance_type.instance_type(spec),
        verification=Verification.FULL if context.looks_closely else spec.artifacts.verification,
        source_path=None if spec.model.source.on_network else _source_path(spec.model.source),
        **_network_source(spec.model.source.on_network, context.resolved),
        source_display=source_display(spec.model.source),
        model_type=spec.model.type,
        served_name=spec.model.served_name or model.name,
        neuron_config=neuron_config.neuron_config(spec),
        generation_config=neuron_config.generation_config(spec),
        artifacts_path=names.ARTIFACTS_MOUNT,
        scratch_path=names.SCRATCH_MOUNT,
        scratch_tier=spec.scratch != Scratch(),
        scratch_on_node=not (spec.scratch.ephemeral or spec.scratch.persistent_volume_claim),
        keys_in_use=context.keys_in_use,
        history=context.history,
        serving_port=spec.serving.port,
        admin_port=names.ADMIN_PORT,
    )


def serve_config(
    model: ObservedModel,
    strategy: Strategy,
    result: Result,
    start_timeout_seconds: int,
    check_seconds: int | None = None,
) -> WorkerConfig:
    """Returns the configuration of a serving worker without its spec_hash, which is a hash over what this is part of.
    `strategy` is never Auto. `check_seconds` is how often a worker asks whether the source has moved."""
    grace = model.spec.worker.termination_grace_period_seconds
    grace = DEFAULT_GRACE_SECONDS if grace is None else grace
    has_key = model.spec.serving.api_key_secret_ref is not None
    config = prepare_config(model, strategy, "", PrepareContext(resolved=result.source))
    if source := config.network_source:
        config = config.with_network_source(source.watched(check_seconds if revision_moves(model.spec) else None))
    return config.model_copy(
        update={
            "compiled_key": result.compiled_key,
            "shards_key": result.shards_key,
            "source_fingerprint": result.source_fingerprint,
            "source_content": result.source_content,
            "start_timeout_seconds": start_timeout_seconds,
            "scratch_on_node": True,  # only used for sizing
            "scratch_limit_bytes": _scratch_limit(model.spec.scratch),
            "api_key_file": names.API_KEY_FILE if has_key else None,
            "shutdown_seconds": max(grace - STOPPING_SECONDS, grace // 2),
        }
    )


def cleanup_config(model: ObservedModel, spec_hash: str, keys_in_use: tuple[str, ...]) -> WorkerConfig:
    return WorkerConfig(
        namespace=model.namespace,
        name=model.name,
        uid=model.uid,
        spec_hash=spec_hash,
        engine=model.spec.engine,
        keys_in_use=keys_in_use,
    )


def _scratch_limit(scratch: Scratch) -> int | None:
    limit = parse_quantity(scratch.empty_dir.size_limit or "") if scratch.empty_dir else None
    return None if limit is None else int(limit)


def _network_source(source: NetworkSource | None, resolved: ResolvedSource | None) -> dict[str, Any]:
    if source is None:
        return {}
    pinned = (resolved.revision, resolved.resolved_at) if resolved else (None, None)
    return {source.CONFIG_FIELD: source.config(*pinned)}


def source_display(source: Source) -> str:
    """Returns the source as the user named it: a pod's own paths mean nothing to them."""
    if source.on_network:
        return source.on_network.display
    if claim := source.persistent_volume_claim:
        return f"claim {claim.claim_name}, path {claim.path}" if claim.path else f"claim {claim.claim_name}"
    return f"host path {source.host_path.path}" if source.host_path else ""


def _source_path(source: Source) -> str:
    claim = source.persistent_volume_claim
    return str(PurePosixPath(names.SOURCE_MOUNT) / (claim.path if claim else ""))
