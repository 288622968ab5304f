"""What is believed of a checkpoint's files: what the safetensors library believes, and nothing else."""

import json
import os
import random
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import SafetensorError, safe_open

from neuronmodel_api import exits
from neuronmodel_worker.checkpoint import (
    MAX_HEADER_BYTES,
    TensorSource,
    files,
    open_checkpoint,
    read_source_header,
)
from neuronmodel_worker.failures import (
    BadInput,
    CheckpointFileMissing,
    CheckpointHeaderInvalid,
    CheckpointTruncated,
    ConfigInvalid,
    ConfigMissing,
    SourceNotFound,
    SourceUnreadable,
)
from neuronmodel_worker.io.untrusted_input import MAX_DEPTH, MAX_VALUES
from neuronmodel_worker.sources import SourceFile, WeightSource
from tests.fuzz.headers import dump, mutate_file, mutate_text, mutate_tree, parse, seeds
from tests.fuzz.judgement import compare
from tests.safetensors_bytes import safetensors_bytes, with_header

ONE = {"a": ("F32", np.arange(6, dtype=np.float32).reshape(2, 3))}


def nested(depth: int) -> list[Any]:
    return [nested(depth - 1)] if depth > 1 else []


def entry(dtype: Any = "F32", shape: Any = (2,), start: Any = 0, stop: Any = 8, **more: Any) -> dict[str, Any]:
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
    "unknown_key": with_header({"a": entry(more={"is": [1, None, 1e300, "é"]})}, b"\0" * 8),
    "entry_as_an_array": with_header({"a": ["F32", [2], [0, 8]]}, b"\0" * 8),
    "dtype_as_an_object": with_header({"a": entry(dtype={"F32": None})}, b"\0" * 8),
    "no_metadata": with_header({"__metadata__": None}),
    "zero_before_overflow": with_header({"a": entry(shape=(0, 2**63, 4), stop=0)}),
    "three_quarters_of_bytes": with_header({"a": entry(dtype="F6_E2M3", shape=(4,), stop=3)}, b"\0" * 3),
    "as_deep_as_can_be": with_header({"a": entry(more=nested(MAX_DEPTH - 2))}, b"\0" * 8),
    "pair_of_surrogates": with_header('{"\\ud83d\\ude00":' + json.dumps(entry()) + "}", b"\0" * 8),
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
    "zero_after_overflow": with_header({"a": entry(shape=(2**63, 4, 0), stop=0)}),
    "size_of_hundreds_of_digits": with_header({"a": entry(shape=(2**63,) * 100)}, b"\0" * 8),
    "half_a_byte": with_header({"a": entry(dtype="F4", shape=(1,), stop=1)}, b"\0"),
    "minus_zero": with_header('{"a": {"dtype": "F32", "shape": [2], "data_offsets": [-0, 8]}}', b"\0" * 8),
    "integer_of_5000_digits": with_header(
        '{"a": {"dtype": "U8", "shape": [' + "9" * 5000 + '], "data_offsets": [0, 8]}}'
    ),
    "offset_beyond_64_bits": with_header({"a": entry(start=2**64, stop=2**64 + 8)}, b"\0" * 8),
    "infinite_unknown_key": with_header('{"a": {"x": 1e400, ' + json.dumps(entry())[1:] + "}", b"\0" * 8),
    "unknown_key_that_is_no_number": with_header('{"a": {"x": NaN, ' + json.dumps(entry())[1:] + "}", b"\0" * 8),
    "integer_beyond_all_numbers": with_header({"a": entry(more=10**400)}, b"\0" * 8),
    "two_negative_sizes": with_header({"a": entry(shape=(-1, -2))}, b"\0" * 8),
    "too_deep": with_header({"a": entry(more=nested(MAX_DEPTH - 1))}, b"\0" * 8),
    "half_a_pair_of_surrogates": with_header('{"\\ud83d":' + json.dumps(entry()) + "}", b"\0" * 8),
    "dtype_twice": with_header('{"a": {"dtype": "F32", ' + json.dumps(entry())[1:] + "}", b"\0" * 8),
    "metadata_twice": with_header('{"__metadata__": null, "__metadata__": null}'),
    "dtype_of_something": with_header({"a": entry(dtype={"F32": {}})}, b"\0" * 8),
    "array_of_four": with_header({"a": ["F32", [2], [0, 8], None]}, b"\0" * 8),
    "no_entry": with_header({"a": None}),
    "byte_order_mark": with_header(b"\xef\xbb\xbf{}"),
    "something_behind": with_header("{}\0"),
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


ONE_ENTRY = json.dumps(entry())
# What the library takes and we refuse on purpose: the docstring of `checkpoint.header` says why.
OURS_ALONE = {
    "a key occurs twice": [
        f'{{"a": {ONE_ENTRY}, "a": {ONE_ENTRY}}}',
        '{"__metadata__": {"a": "b", "a": "c"}}',
        '{"a": {"x": 1, "x": 2, ' + ONE_ENTRY[1:] + "}",
    ],
    "more than 4,000,000 values": ['{"__metadata__": {"a": "' + "," * (MAX_VALUES + 1) + '"}}'],
}


@pytest.mark.parametrize(
    ("header", "words"), [(header, words) for words, headers in OURS_ALONE.items() for header in headers]
)
def test_what_is_refused_here_alone(header: str, words: str, tmp_path: Path) -> None:
    file = (
        checkpoint_in(tmp_path, with_header(header, b"\0" * 8 if ONE_ENTRY[1:] in header else b""))
        / "model.safetensors"
    )
    assert library_accepts(file)
    with pytest.raises(CheckpointHeaderInvalid, match=words):
        open_checkpoint(tmp_path)


def test_an_absurd_header_length_is_refused_without_reading_it(tmp_path: Path) -> None:
    checkpoint_in(tmp_path, struct.pack("<Q", MAX_HEADER_BYTES + 1))
    with pytest.raises(CheckpointHeaderInvalid, match="100,000,001 bytes long"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize("kept", [0, 5, 8, 20, -1, -24])
def test_a_truncated_file_is_distinguished_from_a_wrong_one(kept: int, tmp_path: Path) -> None:
    content = safetensors_bytes(ONE)
    file = checkpoint_in(tmp_path, content[: kept if kept >= 0 else len(content) + kept]) / "model.safetensors"
    assert not library_accepts(file)
    with pytest.raises(CheckpointTruncated, match=str(file)):
        open_checkpoint(tmp_path)


def test_made_headers_are_judged_as_the_library_judges_them(tmp_path: Path) -> None:
    verdicts = [compare(content, tmp_path / "model.safetensors") for content in seeds(1000)]
    assert 200 < sum(verdicts) < 800


def test_changed_headers_are_judged_as_the_library_judges_them(tmp_path: Path) -> None:
    content = safetensors_bytes({**ONE, "b": ("BF16", np.zeros(4, np.uint16))})
    verdicts = [compare(mutate_file(content, seed), tmp_path / "model.safetensors") for seed in range(1000)]
    assert 50 < sum(verdicts) < 800


@pytest.mark.parametrize("seed", range(8))
def test_random_damage_is_judged_as_the_library_judges_it(seed: int, tmp_path: Path) -> None:
    generator = np.random.default_rng(seed)
    content = safetensors_bytes({**ONE, "b": ("BF16", np.zeros(4, np.uint16))})
    for _ in range(100):
        damaged = bytearray(content)
        for position in generator.integers(0, len(content) - 32, generator.integers(1, 3)):
            damaged[position] = (
                generator.integers(0, 256) if seed % 2 else ord(generator.choice(list('0123456789{}[],:" ')))
            )
        compare(bytes(damaged), tmp_path / "model.safetensors")


@pytest.mark.parametrize("name", ["a" * 1_000_000, "two\nlines", "\x1b[2J", "\u202e"])
def test_a_name_that_could_not_be_shown_is_not_shown_as_it_is(name: str, tmp_path: Path) -> None:
    checkpoint_in(tmp_path, with_header({name: entry(shape=(3,) * 1000)}, b"\0" * 8))
    with pytest.raises(CheckpointHeaderInvalid) as refusal:
        open_checkpoint(tmp_path)
    assert str(refusal.value).isprintable()
    assert len(str(refusal.value)) < 1000


def test_a_hundred_megabytes_that_are_no_header_are_refused(tmp_path: Path) -> None:
    file = checkpoint_in(tmp_path, struct.pack("<Q", MAX_HEADER_BYTES)) / "model.safetensors"
    os.truncate(file, 8 + MAX_HEADER_BYTES)
    with pytest.raises(CheckpointHeaderInvalid, match="no JSON"):
        open_checkpoint(tmp_path)


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


NOT_A_FILE_NAME = [3, None, "", ".", "..", "../a", "/etc/passwd", "sub/a", "a\0b", "\ud800", "a" * 256]


@pytest.mark.parametrize(
    "index", [[], None, {}, {"weight_map": {}}, *({"weight_map": {"a": name}} for name in NOT_A_FILE_NAME)]
)
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


@pytest.mark.parametrize("file", ["config.json", "model.safetensors.index.json"])
def test_changed_json_is_read_or_refused_in_a_sentence(file: str, tmp_path: Path) -> None:
    two_files(tmp_path, {"weight_map": {"a": "a.safetensors", "b": "b.safetensors"}})
    refusals = []
    for seed in range(500):
        (tmp_path / file).write_text(changed_index(seed), errors="surrogatepass")
        try:
            assert open_checkpoint(tmp_path).fingerprint
        except BadInput as refusal:
            refusals.append(str(refusal))
    assert 100 < len(refusals) < 490
    assert all(len(each) < 1000 and each.isprintable() and str(tmp_path) in each for each in refusals)


def changed_index(seed: int) -> str:
    chance = random.Random(seed)
    tree = parse('{"metadata": {"total_size": 48}, "weight_map": {"a": "a.safetensors", "b": "b.safetensors"}}')
    for _ in range(chance.choice([1, 1, 2, 3])):
        mutate_tree(tree, chance)
    return mutate_text(dump(tree), chance) if chance.random() < 0.2 else dump(tree)


@pytest.mark.parametrize("file", ["config.json", "model.safetensors.index.json"])
@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "not valid JSON"),
        (b"\xff", "not valid JSON"),
        (b"9" * 5000, "no JSON object"),
        (b'{"a":' * 100_000, "nested too deep"),
        (json.dumps({"a": nested(MAX_DEPTH)}).encode(), "nested too deep"),
        (b'{"a": "\\udc00"}', "ends within a character"),
        (b"[" + b"0," * MAX_VALUES + b"0]", "far larger"),
    ],
)
def test_json_that_cannot_be_trusted_is_refused(file: str, content: bytes, words: str, tmp_path: Path) -> None:
    two_files(tmp_path, {"weight_map": {"a": "a.safetensors"}})
    (tmp_path / file).write_bytes(content)
    with pytest.raises(ConfigInvalid, match=words) as refusal:
        open_checkpoint(tmp_path)
    assert file in str(refusal.value)


def test_a_json_file_of_more_bytes_than_are_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    os.truncate(tmp_path / "config.json", files.MAX_JSON_BYTES + 1)
    with pytest.raises(ConfigInvalid, match="far larger"):
        open_checkpoint(tmp_path)


def test_infinity_in_a_configuration_is_read_over(tmp_path: Path) -> None:
    checkpoint_in(tmp_path, safetensors_bytes(ONE))
    (tmp_path / "config.json").write_text('\ufeff{"time_step_limit": [0.0, Infinity]}')
    assert open_checkpoint(tmp_path).fingerprint


FILES = ["config.json", "model.safetensors.index.json", "b.safetensors"]
IN_PLACE_OF_A_FILE: dict[str, Callable[[Path], None]] = {
    "directory": lambda path: path.mkdir(),
    "pipe": lambda path: os.mkfifo(path),
    "device": lambda path: path.symlink_to("/dev/zero"),
}


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("kind", IN_PLACE_OF_A_FILE)
def test_what_is_no_file_is_neither_read_nor_waited_for(kind: str, file: str, tmp_path: Path) -> None:
    two_files(tmp_path, {"weight_map": {"a": "a.safetensors", "b": "b.safetensors"}})
    (tmp_path / file).unlink()
    IN_PLACE_OF_A_FILE[kind](tmp_path / file)
    with pytest.raises((ConfigInvalid, CheckpointFileMissing), match="a directory, a pipe or a device") as refusal:
        open_checkpoint(tmp_path)
    assert str(tmp_path / file) in str(refusal.value)


@pytest.mark.parametrize("file", FILES)
def test_a_file_that_fails_to_be_read_is_named(file: str, tmp_path: Path) -> None:
    two_files(tmp_path, {"weight_map": {"a": "a.safetensors", "b": "b.safetensors"}})
    (tmp_path / file).unlink()
    (tmp_path / file).symlink_to("/proc/self/mem")  # a regular file whose first bytes are an input/output error
    with pytest.raises(SourceUnreadable, match=f"{file} cannot be read: Input/output error"):
        open_checkpoint(tmp_path)


def test_a_file_that_vanishes_after_the_index_was_read_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    two_files(tmp_path, {"weight_map": {"a": "a.safetensors", "b": "b.safetensors"}})

    def vanish(source: WeightSource, name: str) -> tuple[SourceFile, dict[str, TensorSource]]:
        source.path(name).unlink()
        return read_source_header(source, name)

    monkeypatch.setattr("neuronmodel_worker.checkpoint.checkpoint.read_source_header", vanish)
    with pytest.raises(CheckpointFileMissing, match=r"a\.safetensors.*Download it again\."):
        open_checkpoint(tmp_path)


def test_a_file_that_cannot_be_looked_at_is_not_called_missing(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").symlink_to("a" * 300)  # longer than a name may be
    with pytest.raises(SourceUnreadable, match=r"model\.safetensors cannot be read") as failure:
        open_checkpoint(tmp_path)
    assert failure.value.exit_code == exits.TRANSIENT


@contextmanager
def somebody_else() -> Iterator[None]:
    """Root may read everything, so root becomes somebody else for a while."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)


@pytest.fixture
def open_to_all(tmp_path: Path) -> Iterator[Path]:
    """A folder that somebody else may enter, with all that is around it."""
    closed = {path: path.stat().st_mode for path in tmp_path.parents if not path.stat().st_mode & 0o001}
    for path in (tmp_path, *closed):
        path.chmod(path.stat().st_mode | 0o055)
    yield tmp_path
    for path, mode in closed.items():
        path.chmod(mode)


@pytest.mark.parametrize("file", FILES)
def test_a_file_that_may_not_be_read_is_named(file: str, open_to_all: Path) -> None:
    two_files(open_to_all, {"weight_map": {"a": "a.safetensors", "b": "b.safetensors"}})
    (open_to_all / file).chmod(0)
    with somebody_else(), pytest.raises(SourceUnreadable, match=f"{file} cannot be read: Permission denied"):
        open_checkpoint(open_to_all)


def test_a_directory_that_may_not_be_entered_is_not_called_missing(tmp_path: Path) -> None:
    tmp_path.chmod(0)
    try:
        with somebody_else(), pytest.raises(SourceUnreadable, match="Permission denied"):
            open_checkpoint(tmp_path / "model")
    finally:
        tmp_path.chmod(0o700)


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
