"""`neuronmodel verify`: everything that is wrong with the shards in a folder, a line each."""

import json
import os
import re
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from neuronmodel_api import exits
from neuronmodel_worker.checkpoint import open_checkpoint
from neuronmodel_worker.plan.streamed import make_plan
from neuronmodel_worker.store import Store, shards_inputs, shards_key
from neuronmodel_worker.stream import FileSink, run
from tests.unit.worker.commands.commands import MODES_COUNT, Ended, Place, here, neuronmodel


@pytest.fixture
def sharded(place: Place) -> Place:
    place.sharded()
    return place


def file_of(place: Place, rank: int) -> Path:
    return place.weights / f"tp{rank}_sharded_checkpoint.safetensors"


def verify(place: Place, *more: object) -> Ended:
    return here("verify", place.output, *more)


def test_what_is_right_is_reported_in_a_line(sharded: Place) -> None:
    ended = neuronmodel("verify", sharded.output)
    assert (ended.code, ended.err) == (0, "")
    assert ended.out == "4 rank files (0-3), 191 kB: sizes, headers, tensors and rank numbers are right\n"
    full = verify(sharded, "--full", "--threads", "1")
    assert full.code == 0
    assert "; digests too, all bytes read in 0." in full.out


def test_a_subset_of_the_ranks_is_reported_as_one(place: Place) -> None:
    place.sharded("--ranks", "0-1")
    place.sharded("--ranks", "3")
    assert "3 rank files (0-1, 3 of 4), 143 kB" in verify(place).out


def test_a_set_of_the_store_is_verified_alike(place: Place, tmp_path: Path) -> None:
    plan = make_plan(open_checkpoint(place.model), {"tp_degree": 4})
    fingerprint, layout = plan.checkpoint.fingerprint, plan.layout_inputs()
    with Store(tmp_path / "store").stage("shards", shards_key(fingerprint, layout)) as staging:
        staging.record(run(plan, FileSink(staging.directory / "weights")).files, under="weights")
        sealed = staging.seal({"inputs": shards_inputs(fingerprint, layout)})
    ended = here("verify", "--full", sealed.directory)
    assert ended.code == 0, ended.out
    assert "4 rank files (0-3)" in ended.out


def flip_last_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-9] ^= 1
    path.write_bytes(content)


def edit_header(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the header in place; it keeps its length."""
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    change(header)
    path.write_bytes(
        content[:8] + json.dumps(header, separators=(",", ":")).encode().ljust(length) + content[8 + length :]
    )


def edit_manifest(place: Place, change: Callable[[dict[str, Any]], object]) -> None:
    manifest = place.manifest
    change(manifest)
    (place.output / "manifest.json").write_text(json.dumps(manifest))


def transpose(header: dict[str, Any]) -> None:
    header["lm_head.weight"]["shape"].reverse()


def damage_three(place: Place) -> None:
    file_of(place, 0).unlink()
    os.truncate(file_of(place, 1), 9000)
    shutil.copy(file_of(place, 2), file_of(place, 3))


FILE = "sharded_checkpoint.safetensors"
# What is done to a set, whether a quick look sees it, and what is reported about it.
DAMAGE: dict[str, tuple[Callable[[Place], object], bool, list[str]]] = {
    "missing": (lambda p: file_of(p, 2).unlink(), True, [f"weights/tp2_{FILE}: it is missing"]),
    "cut": (lambda p: os.truncate(file_of(p, 1), 9000), True, [f"weights/tp1_{FILE}: it is 9,000 bytes long and was"]),
    "longer": (lambda p: os.truncate(file_of(p, 1), 10**6), True, [f"weights/tp1_{FILE}: it is 1,000,000 bytes long"]),
    "garbled": (
        lambda p: file_of(p, 0).write_bytes(b"\xff" * file_of(p, 0).stat().st_size),
        True,
        [f"weights/tp0_{FILE}: .*header"],
    ),
    "flipped": (lambda p: flip_last_byte(file_of(p, 3)), False, [f"weights/tp3_{FILE}: .*digest"]),
    "swapped": (
        lambda p: shutil.copy(file_of(p, 2), file_of(p, 1)),
        True,
        [f"weights/tp1_{FILE}: it holds the tensors of rank 2"],
    ),
    "transposed": (
        lambda p: edit_header(file_of(p, 1), transpose),
        True,
        [rf"weights/tp1_{FILE}: it is not like .*lm_head.weight is BF16 \[64, 32\] and BF16 \[32, 64\] elsewhere"],
    ),
    "renamed": (
        lambda p: edit_header(file_of(p, 1), lambda h: h.update({"norm.weighs": h.pop("norm.weight")})),
        True,
        [f"weights/tp1_{FILE}: .* norm.weighs is in no other, norm.weight is missing"],
    ),
    "stray": (
        lambda p: shutil.copy(file_of(p, 2), file_of(p, 9)),
        True,
        [f"weights/tp9_{FILE}: the manifest does not know it"],
    ),
    "other_key": (
        lambda p: edit_manifest(p, lambda m: m.update(key="0" * 32)),
        True,
        ["manifest.json: its key is 0000"],
    ),
    "no_entry": (
        lambda p: edit_manifest(p, lambda m: m["files"].pop(f"weights/tp3_{FILE}")),
        True,
        ["manifest.json: it is of a set with rank 3", f"weights/tp3_{FILE}: the manifest does not know it"],
    ),
    "outside": (
        lambda p: edit_manifest(p, lambda m: m["files"].update({"../x": m["files"][f"weights/tp0_{FILE}"]})),
        True,
        ["manifest.json: it names ../x, which is no rank's file"],
    ),
    "garbled_manifest": (
        lambda p: (p.output / "manifest.json").write_text('{"format": 1'),
        True,
        ["manifest.json: its manifest cannot be read"],
    ),
    "several": (
        damage_three,
        True,
        [f"weights/tp0_{FILE}: it is missing", f"weights/tp1_{FILE}: ", f"weights/tp3_{FILE}: it holds .* rank 2"],
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_every_problem_is_reported_in_a_line(damage: str, sharded: Place) -> None:
    inflict, quick, problems = DAMAGE[damage]
    inflict(sharded)
    ended = verify(sharded, "--full")
    assert ended.code == exits.ARTIFACT_DAMAGED
    lines = ended.out.splitlines()
    for problem in problems:
        assert [line for line in lines if re.match(problem, line)], (problem, lines)
    assert f"{len(lines)} problem" in ended.sentence
    assert verify(sharded).code == (exits.ARTIFACT_DAMAGED if quick else 0)


def test_without_a_manifest_all_but_digests_is_checked(sharded: Place) -> None:
    (sharded.output / "manifest.json").unlink()
    for more in ((), ("--full",)):
        ended = verify(sharded, *more)
        assert ended.code == 0
        assert "digests could not be compared" in ended.out
    os.truncate(file_of(sharded, 0), 9000)
    file_of(sharded, 1).unlink()
    shutil.copy(file_of(sharded, 3), file_of(sharded, 2))
    ended = verify(sharded)
    assert ended.code == exits.ARTIFACT_DAMAGED
    missing, cut, swapped = ended.out.splitlines()
    assert "tp0_sharded_checkpoint.safetensors: is truncated: its header describes 47,756 bytes and 9,000" in cut
    assert "tp1_sharded_checkpoint.safetensors: it is missing, and ranks 0 to 3 are there" in missing
    assert "tp2_sharded_checkpoint.safetensors: it holds the tensors of rank 3" in swapped


def test_a_folder_that_holds_no_shards_is_refused(place: Place) -> None:
    for directory, words in (
        (place.root / "nowhere", "There is no folder"),
        (place.config, "There is no folder"),
        (place.model, "holds neither manifest.json nor rank files"),
    ):
        ended = here("verify", directory)
        assert ended.code == exits.BAD_INPUT
        assert words in ended.sentence


def test_a_newer_versions_set_and_a_compiled_one_are_not_judged(sharded: Place) -> None:
    edit_manifest(sharded, lambda m: m.update(kind="compiled"))
    assert "holds a compiled model" in verify(sharded).sentence
    edit_manifest(sharded, lambda m: m.update(format=9))
    assert "in format 9" in verify(sharded).sentence
    assert verify(sharded).code == exits.BAD_INPUT


def test_a_file_that_cannot_be_read_is_no_damage(sharded: Place) -> None:
    file_of(sharded, 1).chmod(0)
    file_of(sharded, 2).unlink()
    ended = neuronmodel("verify", sharded.output, prefix=MODES_COUNT)
    assert ended.code == exits.TRANSIENT
    assert ended.out == "weights/tp2_sharded_checkpoint.safetensors: it is missing\n"
    assert "tp1_sharded_checkpoint.safetensors cannot be read: Permission denied" in ended.sentence
