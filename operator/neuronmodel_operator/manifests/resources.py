"""What a start needs, as `prepare` computed it, as Kubernetes requests and shared memory.

It never sets limits of memory or disk, or the size of the scratch volume: one that is slightly too low kills what would
have run.
"""

from neuronmodel_api import names
from neuronmodel_api.report import Sizing
from neuronmodel_api.spec import NeuronModelSpec
from neuronmodel_operator.manifests.quantities import parse_quantity, readable


def requests(spec: NeuronModelSpec, sizing: Sizing) -> dict[str, str]:
    """Returns the requests, without space for copies on the scratch volume: a start works without them."""
    sizes = {"memory": sizing.host_memory_bytes, "ephemeral-storage": _node_disk_bytes(spec, sizing)}
    return {name: readable(size) for name, size in sizes.items() if size}


def shared_memory(spec: NeuronModelSpec, sizing: Sizing) -> str | None:
    """Returns the size of /dev/shm; None if the container runtime's default is enough or the user mounts something
    there."""
    taken = {str(mount["mountPath"]).rstrip("/") for mount in spec.worker.volume_mounts}
    if not sizing.shared_memory_bytes or names.SHARED_MEMORY_MOUNT in taken:
        return None
    return readable(sizing.shared_memory_bytes)


def _node_disk_bytes(spec: NeuronModelSpec, sizing: Sizing) -> int:
    """Returns the disk space that an emptyDir takes, within the user's limit."""
    scratch = spec.scratch
    if scratch.ephemeral or scratch.persistent_volume_claim or scratch.host_path:
        return 0
    limit = parse_quantity(scratch.empty_dir.size_limit or "") if scratch.empty_dir else None
    return sizing.scratch_bytes if limit is None else min(sizing.scratch_bytes, int(limit))
