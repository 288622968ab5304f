"""Space on the artifacts volume: what will be written, known before the first byte, and how to make space for it."""

from collections.abc import Iterable
from typing import Final

from neuronmodel_api.config import Engine
from neuronmodel_worker.artifact_keys import shard_bytes
from neuronmodel_worker.failures import ArtifactsVolumeFull
from neuronmodel_worker.plan.streamed import ModelPlan, StreamedPlan
from neuronmodel_worker.store import SHARDS, Store

COMPILED_ALLOWANCE: Final = {Engine.CPU: 8 << 20, Engine.NEURON: 2 << 30}
"""How much a compiled model may take: nothing tells before the compiler does. Our TorchScript graphs have less than 1
MB; large models have several NEFFs of some hundred MB each."""
SOURCE_BYTES_A_DIGEST_BYTE: Final = 1 << 15
"""Digests of the source and manifests take far less than 1/32,768 of the source."""
ESTIMATED: Final = "That is an estimate: NxD Inference shards the model itself and tells no size beforehand."


def needed_bytes(store: Store, plan: ModelPlan, engine: Engine, *, compiled: str | None, shards: str | None) -> int:
    """Returns how many bytes will be written for the sets with these keys; a key is None if its set exists.

    A set that another worker is writing counts as 0, since it has its space already, and so do rank files that can be
    adopted.
    """
    at_work = {item.key for item in store.items() if item.living} if compiled or shards else set()
    total = COMPILED_ALLOWANCE[engine] if compiled and compiled not in at_work else 0
    if shards and shards not in at_work:
        whole = shard_bytes(plan, shards) + plan.source_bytes // SOURCE_BYTES_A_DIGEST_BYTE
        total += max(0, whole - store.adoptable_bytes(SHARDS, shards))
    return total


def with_estimate_note(plan: ModelPlan, full: ArtifactsVolumeFull) -> ArtifactsVolumeFull:
    """Returns the failure with a note that the figure is an estimate, if it is one."""
    if isinstance(plan, StreamedPlan) or full.needed_bytes is None:
        return full
    in_use = f"{ESTIMATED} {full.in_use}".strip()
    return ArtifactsVolumeFull(full.directory, full.needed_bytes, full.free_bytes, in_use)


def require(store: Store, nbytes: int, owner: str, keep: Iterable[str]) -> None:
    """Makes space: it removes what nobody needs, then what only this owner needed before. The keys `keep` stay, whoever
    refers to them.

    Raises ArtifactsVolumeFull, which says what else would make space.
    """
    spared = frozenset(keep)
    try:
        store.require_space(nbytes, spared)
    except ArtifactsVolumeFull as full:
        sets = [item for item in store.items(spared) if item.what == "set" and not item.in_use]
        former = [item for item in sets if item.owners == (owner,)]
        if not former or full.free_bytes + sum(item.nbytes for item in former) < nbytes:
            raise
        store.unrefer(owner, keep=spared)
        store.require_space(nbytes, spared)
