"""Golden files: writes the checkpoint that one describes, and puts the shards that were made of it into the file.

python -m tests.golden_file source CASE.json DIRECTORY
python -m tests.golden_file shards CASE.json WEIGHTS
"""

import hashlib
import json
import struct
import sys
from pathlib import Path
from typing import Any

from tests.generated import write_checkpoint

DTYPES = {"BF16": "bfloat16", "F16": "float16", "F32": "float32", "I32": "int32"}
DIGEST_DIGITS = 24


def write_source(case: Path, directory: Path) -> None:
    """`model` to shard and `neuron_config.json` to shard it with."""
    content = json.loads(case.read_text())
    write_checkpoint(directory / "model", content)
    (directory / "neuron_config.json").write_text(json.dumps(content["neuron_config"]))


def add_shards(case: Path, weights: Path) -> None:
    files = sorted(weights.glob("tp*_sharded_checkpoint.safetensors"), key=lambda file: (len(file.name), file.name))
    content = json.loads(case.read_text()) | {"shards": {file.name: described(file) for file in files}}
    case.write_text(json.dumps(content))


def described(file: Path) -> dict[str, list[Any]]:
    """Every tensor of a safetensors file as a golden file has it."""
    content = file.read_bytes()
    (header_bytes,) = struct.unpack("<Q", content[:8])
    data = content[8 + header_bytes :]
    header = json.loads(content[8 : 8 + header_bytes])
    return {name: _described(data, entry) for name, entry in header.items() if name != "__metadata__"}


def _described(data: bytes, entry: dict[str, Any]) -> list[Any]:
    digest = hashlib.sha256(data[slice(*entry["data_offsets"])]).hexdigest()[:DIGEST_DIGITS]
    return [DTYPES[entry["dtype"]], entry["shape"], digest]


if __name__ == "__main__":
    command, *paths = sys.argv[1:]
    {"source": write_source, "shards": add_shards}[command](*map(Path, paths))
