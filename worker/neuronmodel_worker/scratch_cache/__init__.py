"""Copies on the scratch volume of what starts load, so that the next start on this node reads a local disk.

    <scratch>/tier/shards/<key>/…           a sealed set as it is on the artifacts volume, its manifest included
    <scratch>/tier/source/<fingerprint>/…   the source's safetensors files, and copy.json
    <scratch>/tier/writing/<kind>-<key>/    a copy that is being made; nothing in it counts
    <scratch>/tier/locks/                   who uses a copy, who writes one

It is a cache: any failure is a `TierError`, which becomes a note in the report, and the start continues without the
copy. Several workers may share one volume.
"""

from neuronmodel_worker.scratch_cache.errors import TierError
from neuronmodel_worker.scratch_cache.volume import Tier

__all__ = ["Tier", "TierError"]
