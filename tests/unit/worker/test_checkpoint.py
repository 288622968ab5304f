"""What is believed of a checkpoint's files: what the safetensors library believes, and nothing else."""

import json
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import SafetensorError, safe_open

from neuronmodel_api import exits
from neuronmodel_worker.checkpoint import MAX_HEADER_BYTES, open_checkpoint, read_header
from neuronmodel_worker.failures import (
    CheckpointFileMissing,
    CheckpointHeaderInvalid,
    CheckpointTruncated,
    ConfigInvalid,
    ConfigMissing,
    SourceNotFound,
    SourceUnreadable,
    WorkerFailure,
)
from tests.safetensors_bytes import safetensors_bytes, with_header

ONE = {"a": ("F32", np.arange(6, dtype=np.float32).reshape(2, 3))}


def entry(dtype: str = "F32", shape: Any = (2,), start: Any = 0, stop: Any = 8, **more: Any) -> dict[str, Any]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [start, stop], **more}


def checkpoint_in(directory: Path, content: bytes) -> Path:
    (directory / "config.json").write_text("{}")
    (directory / "model.safetensors").write_bytes(content)
    return directory


def library_accepts(file: Path) -> bool:
    try:
        with safe_open(file, framework="numpy"):
            return True
    except SafetensorError:
        return False


def test_tensors_are_found_with_their_place_in_the_file(tmp_path: Path) -> None:
    content = safetensors_bytes({**ONE, "b": ("BF16", np.arange(4, dtype=np.uint16))})
    tensor = open_checkpoint(checkpoint_in(tmp_path, content)).tensors["b"]
    assert (tensor.dtype, tensor.shape, tensor.nbytes) == ("BF16", (4,), 8)
    assert content[tensor.offset : tensor.offset + tensor.nbytes] == np.arange(4, dtype=np.uint16).tobytes()


GOOD = {
    "empty": with_header({}),
    "metadata": with_header({"__metadata__": {"format": "pt"}, "a": entry()}, b"\0" * 8),
    "spaces_behind": with_header(json.dumps({"a": entry()}) + "   ", b"\0" * 8),
    "space_before": with_header(" {}"),
    "scalar": with_header({"a": entry(shape=(), stop=4)}, b"\0" * 4),
    "no_elements": with_header({"a": entry(shape=(0, 5), stop=0)}),
    "out_of_order": with_header({"b": entry(start=8, stop=16), "a": entry()}, b"\0" * 16),
    "escaped_name": with_header('{"a\\u00e9\\n":' + json.dumps(entry()) + "}", b"\0" * 8),
}

LYING = {
    "overlap": with_header({"a": entry(), "b": entry(start=4, stop=12)}, b"\0" * 12),
    "same_place_twice": with_header({"a": entry(), "b": entry()}, b"\0" * 8),
    "hole": with_header({"a": entry(), "b": entry(start=12, stop=20)}, b"\0" * 20),
    "hole_at_start": with_header({"a": entry(start=8, stop=16)}, b"\0" * 16),
    "bytes_left_over": with_header({"a": entry()}, b"\0" * 9),
    "shape_needs_more": with_header({"a": entry(shape=(3,))}, b"\0" * 8),
    "shape_overflows": with_header({"a": entry(shape=(2**63, 4))}, b"\0" * 8),
    "backwards": with_header({"a": entry(start=8, stop=0)}, b"\0" * 8),
    "unknown_dtype": with_header({"a": entry(dtype="F7")}, b"\0" * 8),
    "dtype_no_string": with_header({"a": {**entry(), "dtype": 3}}, b"\0" * 8),
    "negative_shape": with_header({"a": entry(shape=(-2,))}, b"\0" * 8),
    "fractional_shape": with_header({"a": entry(shape=(2.0,))}, b"\0" * 8),
    "boolean_shape": with_header({"a": entry(shape=(True, 2))}, b"\0" * 8),
    "three_offsets": with_header({"a": {**entry(), "data_offsets": [0, 4, 8]}}, b"\0" * 8),
    "no_offsets": with_header({"a": {"dtype": "F32", "shape": [2]}}, b"\0" * 8),
    "metadata_no_strings": with_header({"__metadata__": {"a": 1}}),
    "no_object": with_header("[]"),
    "no_json": with_header('{"a": '),
    "not_a_number": with_header('{"a": {"dtype": "F32", "shape": [NaN], "data_offsets": [0, 8]}}', b"\0" * 8),
    "no_utf8": with_header(b'{"\xff": 1}'),
    "empty_header": with_header(""),
    "nested_deep": with_header('{"a":' + "[" * 100_000),
}


@pytest.mark.parametrize("content", GOOD.values(), ids=GOOD.keys())
def test_a_right_header_is_believed(content: bytes, tmp_path: Path) -> None:
    file = checkpoint_in(tmp_path, content) / "model.safetensors"
    assert library_accepts(file)
    open_checkpoint(tmp_path)


@pytest.mark.parametrize("content", LYING.values(), ids=LYING.keys())
def test_a_header_that_lies_is_refused_by_file(content: bytes, tmp_path: Path) -> None:
    file = checkpoint_in(tmp_path, content) / "model.safetensors"
    assert not library_accepts(file)
    with pytest.raises(CheckpointHeaderInvalid, match=str(file)) as refusal:
        open_checkpoint(tmp_path)
    assert refusal.value.exit_code == exits.BAD_INPUT


def test_a_key_that_occurs_twice_is_refused(tmp_path: Path) -> None:
    one = json.dumps(entry())
    checkpoint_in(tmp_path, with_header(f'{{"a": {one}, "a": {one}}}', b"\0" * 8))
    with pytest.raises(CheckpointHeaderInvalid, match="twice"):
        open_checkpoint(tmp_path)


def test_an_absurd_header_length_is_refused_without_reading_it(tmp_path: Path) -> None:
    checkpoint_in(tmp_path, struct.pack("<Q", MAX_HEADER_BYTES + 1))
    with pytest.raises(CheckpointHeaderInvalid, match="100,000,001 bytes long"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize("kept", [0, 5, 8, 20, -1, -24])
def test_a_truncated_file_is_told_from_a_wrong_one(kept: int, tmp_path: Path) -> None:
    content = safetensors_bytes(ONE)
    file = checkpoint_in(tmp_path, content[: kept if kept >= 0 else len(content) + kept]) / "model.safetensors"
    assert not library_accepts(file)
    with pytest.raises(CheckpointTruncated, match=str(file)):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize("seed", range(40))
def test_random_damage_is_judged_as_the_library_judges_it(seed: int, tmp_path: Path) -> None:
    generator = np.random.default_rng(seed)
    content = bytearray(safetensors_bytes({**ONE, "b": ("BF16", np.zeros(4, np.uint16))}))
    for _ in range(60):
        damaged = bytearray(content)
        for position in generator.integers(0, len(content) - 32, generator.integers(1, 3)):
            damaged[position] = (
                generator.integers(0, 256) if seed % 2 else ord(generator.choice(list('0123456789{}[],:" ')))
            )
        file = checkpoint_in(tmp_path, bytes(damaged)) / "model.safetensors"
        try:
            read_header(file)
            accepted = True
        except WorkerFailure:
            accepted = False
        assert accepted == library_accepts(file), bytes(damaged)


def two_files(directory: Path, index: object) -> Path:
    (directory / "config.json").write_text("{}")
    for name in "ab":
        (directory / f"{name}.safetensors").write_bytes(safetensors_bytes({name: ONE["a"]}))
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    return directory


def test_an_index_joins_its_files(tmp_path: Path) -> None:
    two_files(tmp_path, {"weight_map": {"a": "a.safetensors", "b": "b.safetensors"}})
    checkpoint = open_checkpoint(tmp_path)
    assert {name: tensor.file.path.name for name, tensor in checkpoint.tensors.items()} == {
        "a": "a.safetensors",
        "b": "b.safetensors",
    }


def test_a_single_file_wins_over_an_index(tmp_path: Path) -> None:
    two_files(tmp_path, {"weight_map": {"a": "a.safetensors"}})
    checkpoint_in(tmp_path, safetensors_bytes({"only": ONE["a"]}))
    assert set(open_checkpoint(tmp_path).tensors) == {"only"}


def test_an_index_that_names_a_missing_file_is_refused(tmp_path: Path) -> None:
    two_files(tmp_path, {"weight_map": {"a": "a.safetensors", "c": "c.safetensors"}})
    with pytest.raises(CheckpointFileMissing, match=r"c\.safetensors"):
        open_checkpoint(tmp_path)


def test_an_index_that_names_a_tensor_its_file_lacks_is_refused(tmp_path: Path) -> None:
    two_files(tmp_path, {"weight_map": {"a": "a.safetensors", "c": "b.safetensors"}})
    with pytest.raises(CheckpointFileMissing, match="tensor c"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize("index", [[], {}, {"weight_map": {}}, {"weight_map": {"a": 3}}, {"weight_map": {"a": "../a"}}])
def test_an_index_that_is_none_is_refused(index: object, tmp_path: Path) -> None:
    with pytest.raises(ConfigInvalid, match=r"index\.json"):
        open_checkpoint(two_files(tmp_path, index))


def test_a_missing_directory_config_and_weights_have_each_their_sentence(tmp_path: Path) -> None:
    with pytest.raises(SourceNotFound, match="no directory"):
        open_checkpoint(tmp_path / "nowhere")
    with pytest.raises(ConfigMissing, match=r"no config\.json"):
        open_checkpoint(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(CheckpointFileMissing, match="neither"):
        open_checkpoint(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ConfigInvalid, match="not valid JSON"):
        open_checkpoint(tmp_path)


def test_a_file_that_cannot_be_looked_at_is_not_called_missing(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").symlink_to("model.safetensors")
    with pytest.raises(SourceUnreadable, match=r"model\.safetensors cannot be read") as failure:
        open_checkpoint(tmp_path)
    assert failure.value.exit_code == exits.TRANSIENT


@pytest.fixture
def shut_directory(tmp_path: Path) -> Iterator[Path]:
    """Root may enter every directory, so root becomes somebody else for a while."""
    user = os.geteuid()
    tmp_path.chmod(0)
    if user == 0:
        os.seteuid(65534)
    yield tmp_path
    os.seteuid(user)
    tmp_path.chmod(0o700)


def test_a_directory_that_may_not_be_entered_is_not_called_missing(shut_directory: Path) -> None:
    with pytest.raises(SourceUnreadable, match="Permission denied"):
        open_checkpoint(shut_directory / "model")


def test_symlinks_into_a_blob_store_are_followed(tmp_path: Path) -> None:
    (tmp_path / "blobs").mkdir()
    (tmp_path / "blobs" / "f00d").write_bytes(safetensors_bytes(ONE))
    snapshot = tmp_path / "snapshot"
    snapshot.mkdir()
    (snapshot / "config.json").write_text("{}")
    (snapshot / "model.safetensors").symlink_to("../blobs/f00d")
    assert set(open_checkpoint(snapshot).tensors) == {"a"}


def test_the_fingerprint_follows_config_headers_and_times(tmp_path: Path) -> None:
    checkpoint_in(tmp_path, safetensors_bytes(ONE))
    file = tmp_path / "model.safetensors"
    first = open_checkpoint(tmp_path).fingerprint
    assert open_checkpoint(tmp_path).fingerprint == first
    os.utime(file, ns=(1, 1))
    touched = open_checkpoint(tmp_path).fingerprint
    (tmp_path / "config.json").write_text('{"a": 1}')
    configured = open_checkpoint(tmp_path).fingerprint
    file.write_bytes(safetensors_bytes({"other": ONE["a"]}))
    os.utime(file, ns=(1, 1))
    assert len({first, touched, configured, open_checkpoint(tmp_path).fingerprint}) == 4
