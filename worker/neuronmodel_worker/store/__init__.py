"""The store of artifacts on a volume: sets of files under content keys, each whole or absent."""

from neuronmodel_worker.store.building import Build
from neuronmodel_worker.store.collection import Collected, Policy
from neuronmodel_worker.store.inventory import Item
from neuronmodel_worker.store.keys import COMPILED, SHARDS, ArtifactKind, compiled_key, shards_inputs, shards_key
from neuronmodel_worker.store.leases import Lease
from neuronmodel_worker.store.locks import LeaseTimings
from neuronmodel_worker.store.manifest import Manifest, SealedSet
from neuronmodel_worker.store.quarantine import Quarantined
from neuronmodel_worker.store.staging import Staging
from neuronmodel_worker.store.store import Store

__all__ = [
    "COMPILED",
    "SHARDS",
    "ArtifactKind",
    "Build",
    "Collected",
    "Item",
    "Lease",
    "LeaseTimings",
    "Manifest",
    "Policy",
    "Quarantined",
    "SealedSet",
    "Staging",
    "Store",
    "compiled_key",
    "shards_inputs",
    "shards_key",
]
