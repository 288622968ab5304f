"""Artifacts that are what their key says, whole or absent."""

from neuronmodel_worker.store.keys import COMPILED, SHARDS, Kind, compiled_key, shards_inputs, shards_key
from neuronmodel_worker.store.manifest import Manifest, SealedSet
from neuronmodel_worker.store.sets import Quarantined, Store
from neuronmodel_worker.store.staging import Staging

__all__ = [
    "COMPILED",
    "SHARDS",
    "Kind",
    "Manifest",
    "Quarantined",
    "SealedSet",
    "Staging",
    "Store",
    "compiled_key",
    "shards_inputs",
    "shards_key",
]
