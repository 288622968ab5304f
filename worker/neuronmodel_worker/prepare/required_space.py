"""Room on the artifacts volume: what will be written, known before the first byte, and what would make room for it."""

from collections.abc import Iterable
from typing import Final

from neuronmodel_api.config import Engine
from neuronmodel_worker.artifact_keys import shard_bytes
from neuronmodel_worker.failures import ArtifactsVolumeFull
from neuronmodel_worker.plan.streamed import ModelPlan, StreamedPlan
from neuronmodel_worker.store import SHARDS, Item, Store

COMPILED_ALLOWANCE: Final = {Engine.CPU: 8 << 20, Engine.NEURON: 2 << 30}
"""What a compiled model may take: nothing says it before the compiler does. A TorchScript graph of ours has less than
1 MB; of NEFFs of large models, some hundred MB each, there are several."""
SOURCE_BYTES_A_DIGEST_BYTE: Final = 1 << 15
"""Digests of the source and manifests take far less than its 32,768th part."""
ESTIMATED: Final = "That is an estimate: NxD Inference shards the model itself and tells no size beforehand."


def needed_bytes(store: Store, plan: ModelPlan, engine: Engine, *, compiled: str | None, shards: str | None) -> int:
    """What is going to be written of sets with these keys, None for those that are there: nothing of a set that another
    one writes just now, for which it has its room already, and of shards no rank files that can be adopted."""
    at_work = {item.key for item in store.items() if item.living} if compiled or shards else set()
    total = COMPILED_ALLOWANCE[engine] if compiled and compiled not in at_work else 0
    if shards and shards not in at_work:
        whole = shard_bytes(plan, shards) + plan.source_bytes // SOURCE_BYTES_A_DIGEST_BYTE
        total += max(0, whole - store.adoptable_bytes(SHARDS, shards))
    return total


def with_estimate_note(plan: ModelPlan, full: ArtifactsVolumeFull) -> ArtifactsVolumeFull:
    """With a word on how sure the need is."""
    if isinstance(plan, StreamedPlan) or full.needed_bytes is None:
        return full
    in_use = f"{ESTIMATED} {full.in_use}".strip()
    return ArtifactsVolumeFull(full.directory, full.needed_bytes, full.free_bytes, in_use)


def require(store: Store, nbytes: int, owner: str, keep: Iterable[str]) -> None:
    """Make room, first of what nobody needs, then of what this owner alone needed before; `keep` are keys that are
    needed whoever refers to them. Raises ArtifactsVolumeFull, which says what else would make room."""
    spared = frozenset(keep)
    try:
        store.require_space(nbytes, spared)
    except ArtifactsVolumeFull as full:
        former = [item for item in store.items(spared) if _is_former(item, owner)]
        if not former or full.free_bytes + sum(item.nbytes for item in former) < nbytes:
            raise
        store.unrefer(owner, keep=spared)
        store.require_space(nbytes, spared)


def _is_former(item: Item, owner: str) -> bool:
    return item.what == "set" and item.owners == (owner,) and not item.in_use
