"""Artifacts that are what their key says, whole or absent."""

from neuronmodel_worker.store.building import Work
from neuronmodel_worker.store.collection import Collected, Policy
from neuronmodel_worker.store.inventory import Item
from neuronmodel_worker.store.keys import COMPILED, SHARDS, Kind, compiled_key, shards_inputs, shards_key
from neuronmodel_worker.store.leases import Lease
from neuronmodel_worker.store.locks import Patience
from neuronmodel_worker.store.manifest import Manifest, SealedSet
from neuronmodel_worker.store.quarantine import Quarantined
from neuronmodel_worker.store.staging import Staging
from neuronmodel_worker.store.store import Store

__all__ = [
    "COMPILED",
    "SHARDS",
    "Collected",
    "Item",
    "Kind",
    "Lease",
    "Manifest",
    "Patience",
    "Policy",
    "Quarantined",
    "SealedSet",
    "Staging",
    "Store",
    "Work",
    "compiled_key",
    "shards_inputs",
    "shards_key",
]
