"""Content keys: a digest of everything that an artifact is made from, as 32 hex digits."""

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Final, Literal

ArtifactKind = Literal["compiled", "shards"]
COMPILED: Final = "compiled"
SHARDS: Final = "shards"
KINDS: Final[tuple[ArtifactKind, ...]] = (COMPILED, SHARDS)


_HEX = r"[0-9a-f]{32}"
_SET = re.compile(_HEX)
_UNSEALED = re.compile(rf"(removed-)?(({'|'.join(KINDS)})-)?{_HEX}-.+")


def is_key(name: str) -> bool:
    """Whether a folder of that name may be a set. Other folders on the volume belong to its users."""
    return _SET.fullmatch(name) is not None


def is_of_key(name: str) -> bool:
    """Whether a folder of that name may be a set that is being written or removed, or is in quarantine."""
    return _UNSEALED.fullmatch(name) is not None


def compiled_key(inputs: Mapping[str, object]) -> str:
    """The key of a compiled model. `inputs` are the architecture, the flags that change the graph, the compiler and
    versions, and nothing of the weights."""
    return _key(COMPILED, inputs)


def shards_inputs(content: str, layout_inputs: Mapping[str, object]) -> dict[str, object]:
    """The inputs of `shards_key`, for the manifest."""
    return {"source": content, "layout": dict(layout_inputs)}


def shards_key(content: str, layout_inputs: Mapping[str, object]) -> str:
    """The key of shards. `content` names the bytes of the checkpoint's weights, `layout_inputs` come from the plan."""
    return _key(SHARDS, shards_inputs(content, layout_inputs))


def _key(kind: ArtifactKind, inputs: Mapping[str, object]) -> str:
    canonical = json.dumps({"kind": kind, "inputs": inputs}, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:32]
