"""What a start needs, as `prepare` worked it out, in Kubernetes' words: requests and shared memory.

Never a limit of memory or disk, nor of the scratch volume: one that is a little too low kills what would have run.
"""

from neuronmodel_api import names
from neuronmodel_api.report import Sizing
from neuronmodel_api.spec import NeuronModelSpec
from neuronmodel_operator.manifests.quantities import parse_quantity, readable


def requests(spec: NeuronModelSpec, sizing: Sizing) -> dict[str, str]:
    """Without room for copies on the scratch volume: where there is none, a start does without them."""
    sizes = {"memory": sizing.host_memory_bytes, "ephemeral-storage": _node_disk_bytes(spec, sizing)}
    return {name: readable(size) for name, size in sizes.items() if size}


def shared_memory(spec: NeuronModelSpec, sizing: Sizing) -> str | None:
    """Size of /dev/shm. None: what the container runtime mounts is enough, or the user mounts something there."""
    taken = {str(mount["mountPath"]).rstrip("/") for mount in spec.worker.volume_mounts}
    if not sizing.shared_memory_bytes or names.SHARED_MEMORY_MOUNT in taken:
        return None
    return readable(sizing.shared_memory_bytes)


def _node_disk_bytes(spec: NeuronModelSpec, sizing: Sizing) -> int:
    """Of an emptyDir, within what the user lets it take."""
    scratch = spec.scratch
    if scratch.ephemeral or scratch.persistent_volume_claim or scratch.host_path:
        return 0
    limit = parse_quantity(scratch.empty_dir.size_limit or "") if scratch.empty_dir else None
    return sizing.scratch_bytes if limit is None else min(sizing.scratch_bytes, int(limit))
