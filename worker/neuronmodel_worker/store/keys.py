"""Keys: what an artifact is made from, as 32 hex digits."""

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Final, Literal

ArtifactKind = Literal["compiled", "shards"]
COMPILED: Final = "compiled"
SHARDS: Final = "shards"
KINDS: Final[tuple[ArtifactKind, ...]] = (COMPILED, SHARDS)


_KEY = r"[0-9a-f]{32}"
_SET = re.compile(_KEY)
_HALF = re.compile(rf"(removed-)?(({'|'.join(KINDS)})-)?{_KEY}-.+")


def is_key(name: str) -> bool:
    """Whether a folder of that name may be a set. People keep things of their own on volumes, which are not ours."""
    return _SET.fullmatch(name) is not None


def is_of_key(name: str) -> bool:
    """Whether a folder of that name may be a set that is written, removed, or lies apart."""
    return _HALF.fullmatch(name) is not None


def compiled_key(inputs: Mapping[str, object]) -> str:
    """`inputs`: architecture, flags that change the graph, compiler and versions; nothing of the weights."""
    return _key(COMPILED, inputs)


def shards_inputs(content: str, layout_inputs: Mapping[str, object]) -> dict[str, object]:
    """What `shards_key` is made from, for the manifest."""
    return {"source": content, "layout": dict(layout_inputs)}


def shards_key(content: str, layout_inputs: Mapping[str, object]) -> str:
    """`content` names the bytes of the checkpoint's weights, `layout_inputs` come from the plan."""
    return _key(SHARDS, shards_inputs(content, layout_inputs))


def _key(kind: ArtifactKind, inputs: Mapping[str, object]) -> str:
    canonical = json.dumps({"kind": kind, "inputs": inputs}, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:32]
