"""What a store may hold, judged without the store's own code: bytes from the rules of the layout written out on arrays,
digests computed here."""

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from tests.generated import DTYPES, values
from tests.model_cases import decoder_tensors
from tests.reference_layout import NUMPY, reference_shards
from tests.store_faults.jobs import GRAPH, Model

SAFETENSORS = {NUMPY[name]: dtype for name, (dtype, _) in DTYPES.items()} | {np.dtype(np.int32): "I32"}
MANIFEST = "manifest.json"

Tensors = dict[str, tuple[str, list[int], bytes]]


class Unsound(AssertionError):
    """A store holds what no reader may be given."""


@dataclass(frozen=True)
class RankFile:
    """A safetensors file, taken apart."""

    header: bytes
    metadata: Mapping[str, str]
    tensors: Tensors

    @property
    def digest(self) -> str:
        """As the project defines `xxh3-128-tensors`: over the header and every tensor's digest, in the file's order."""
        state = xxhash.xxh3_128(self.header)
        for _, _, data in self.tensors.values():
            state.update(xxhash.xxh3_128_digest(data))
        return state.hexdigest()


def rank_file(content: bytes) -> RankFile:
    """Raises Unsound."""
    try:
        (length,) = struct.unpack_from("<Q", content)
        entries = json.loads(content[8 : 8 + length])
        metadata = entries.pop("__metadata__", {})
        in_order = sorted(entries.items(), key=lambda item: item[1]["data_offsets"])
        ends = [0, *(entry["data_offsets"][1] for _, entry in in_order)]
    except (ValueError, KeyError, struct.error) as error:
        raise Unsound(f"no safetensors header: {error}") from error
    data = content[8 + length :]
    if [entry["data_offsets"][0] for _, entry in in_order] != ends[:-1] or ends[-1] != len(data):
        raise Unsound(f"{len(data)} bytes of data, and the tensors end at {ends}")
    tensors = {name: (entry["dtype"], entry["shape"], data[slice(*entry["data_offsets"])]) for name, entry in in_order}
    return RankFile(content[: 8 + length], metadata, tensors)


KIND = "kind-of-values"
"""A file next to the checkpoint that says how its weights were made."""


def source_arrays(source: Path) -> dict[str, NDArray[Any]]:
    config, kind = json.loads((source / "config.json").read_text()), int((source / KIND).read_text())
    return {
        name: values(name, shape, "bfloat16", kind).view(NUMPY["bfloat16"]) for name, shape in decoder_tensors(config)
    }


@cache
def expected_ranks(source: Path, flags: str) -> list[Tensors]:
    """What the rules make of that source, whose weights are as tests.generated writes them; `flags` as JSON."""
    config, arrays = json.loads((source / "config.json").read_text()), source_arrays(source)
    return [
        {name: (SAFETENSORS[a.dtype], list(a.shape), a.tobytes()) for name, a in rank.items()}
        for rank in reference_shards(config, json.loads(flags), arrays)
    ]


def rank_path(directory: Path, rank: int) -> Path:
    """In a set of shards."""
    return directory / "weights" / f"tp{rank}_sharded_checkpoint.safetensors"


def check_sets(root: Path, shards: Mapping[str, Model]) -> dict[tuple[str, str], Path]:
    """Every set that has a key's name. `shards` says of which model a key's shards are.

    Raises Unsound for a set that is not whole and right, whoever may know of it.
    """
    found = {}
    for kind in ("compiled", "shards"):
        for directory in sorted((root / kind).glob("*")):
            check_set(directory, kind, shards.get(directory.name))
            found[kind, directory.name] = directory
    return found


def check_set(directory: Path, kind: str, model: Model | None) -> None:
    try:
        manifest = json.loads((directory / MANIFEST).read_bytes())
    except (OSError, ValueError) as error:
        raise Unsound(f"{directory} has no manifest: {error}") from error
    present = {path.relative_to(directory).as_posix(): path for path in directory.rglob("*") if path.is_file()}
    del present[MANIFEST]
    if (manifest["kind"], manifest["key"]) != (kind, directory.name):
        raise Unsound(f"{directory} has the manifest of {manifest['kind']} {manifest['key']}")
    if set(present) != set(manifest["files"]):
        raise Unsound(f"{directory} holds {sorted(present)}, its manifest names {sorted(manifest['files'])}")
    contents = {name: path.read_bytes() for name, path in present.items()}
    for name, entry in manifest["files"].items():
        _check_entry(f"{directory}/{name}", entry, contents[name])
    if kind == "compiled":
        if contents != GRAPH:
            raise Unsound(f"{directory} is not what the engine made")
    elif model is None:
        raise Unsound(f"{directory} has a key that nobody asked for")
    else:
        _check_ranks(directory, contents, model)


def _check_entry(file: str, entry: Mapping[str, Any], content: bytes) -> None:
    tensors = entry["algorithm"] == "xxh3-128-tensors"
    digest = rank_file(content).digest if tensors else xxhash.xxh3_128_hexdigest(content)
    if (entry["nbytes"], entry["digest"]) != (len(content), digest):
        raise Unsound(f"{file} is {len(content)} bytes with the digest {digest}, and was sealed as {entry}")
    if entry.get("header") not in (None, tensors and xxhash.xxh3_128_hexdigest(rank_file(content).header)):
        raise Unsound(f"{file} has another header than {entry['header']}")


def _check_ranks(directory: Path, contents: Mapping[str, bytes], model: Model) -> None:
    expected = expected_ranks(model.source, json.dumps(model.flags))
    names = {f"weights/tp{rank}_sharded_checkpoint.safetensors": rank for rank in range(len(expected))}
    if found := {name for name in contents if name.startswith("weights/")} ^ set(names):
        raise Unsound(f"{directory}: files missing or too many: {found}")
    for name, rank in names.items():
        if rank_file(contents[name]).tensors != expected[rank]:
            raise Unsound(f"{directory}/{name} has other tensors than rank {rank}")
    if "source.json" in contents:
        _check_source(directory, json.loads(contents["source.json"]), model)


def _check_source(directory: Path, document: Mapping[str, Any], model: Model) -> None:
    """The digests in source.json cover every byte of every tensor, and are those of the bytes."""
    arrays = source_arrays(model.source)
    if document["tensors"].keys() != arrays.keys():
        raise Unsound(f"{directory}: source.json names other tensors")
    for name, pieces in document["tensors"].items():
        data, end = arrays[name].tobytes(), 0
        for start, nbytes, digest in pieces:
            if (start, digest) != (end, xxhash.xxh3_128_hexdigest(data[start : start + nbytes])):
                raise Unsound(f"{directory}: source.json is wrong about {name} from byte {end} on")
            end += nbytes
        if end != len(data):
            raise Unsound(f"{directory}: source.json ends in the middle of {name}")


def remains(root: Path) -> list[str]:
    """What is on a store that no set, no reference, nothing put apart and no record needs. What a probe left is not
    counted: it goes with the probes of nodes that are no more."""
    hidden = [path for path in root.rglob(".*") if path.parent != root / "probes"]
    under_way = [path for name in ("staging", "leases") for path in (root / name).rglob("*")]
    return sorted({path.relative_to(root).as_posix() for path in [*hidden, *under_way]})


def sealed_ranks(root: Path) -> dict[str, int]:
    """Rank files that were sealed in a staging, by name, with their inode."""
    return {
        path.name: path.stat().st_ino
        for seal in (root / "staging").glob("shards-*/seals/*.json")
        for path in [seal.parents[1] / "weights" / seal.stem]
        if path.exists()
    }
