"""Every class of damage to a sealed set is found before it is served from."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from neuronmodel_api.config import Verification
from neuronmodel_worker.failures import ArtifactDamaged, ArtifactsTooNew
from neuronmodel_worker.store import SealedSet, Store, shards_inputs, shards_key
from neuronmodel_worker.store.manifest import MANIFEST
from neuronmodel_worker.stream import FileSink, rank_file_name, run
from tests.unit.worker.sharding import small_plan, small_source


def seal(store: Store, source: Path) -> SealedSet:
    plan = small_plan(source if source.exists() else small_source(source))
    fingerprint, layout = plan.checkpoint.fingerprint, plan.layout_inputs()
    key = shards_key(fingerprint, layout)
    with store.build("shards", key) as work:
        sink = FileSink(work.staging.directory / "weights", seal=work.staging.seal_rank, metadata={"key": key})
        run(plan, sink)
        (work.staging.directory / "source.json").write_text('{"content": "c"}')
        return work.staging.seal({"inputs": shards_inputs(fingerprint, layout)})


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "artifacts")


@pytest.fixture
def sealed(store: Store, tmp_path: Path) -> SealedSet:
    return seal(store, tmp_path / "source")


def rank_file(directory: Path, rank: int = 0) -> Path:
    return directory / "weights" / rank_file_name(rank)


def flip(path: Path, position: int) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)


def swap(directory: Path) -> None:
    one, other = rank_file(directory, 0), rank_file(directory, 1)
    one.rename(one.with_name("x"))
    other.rename(one)
    one.with_name("x").rename(other)


def to_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def to_link(path: Path) -> None:
    path.rename(path.parent.parent.parent.parent / "elsewhere")
    path.symlink_to(path.parent.parent.parent.parent / "elsewhere")


def flip_in_manifest(directory: Path, what: str) -> None:
    """One letter of it; it stays JSON."""
    path = directory / MANIFEST
    text = path.read_text()
    at = text.index(what) + len(what) - 1
    path.write_text(text[:at] + chr(ord(text[at]) ^ 1) + text[at + 1 :])


FOUND_QUICKLY: dict[str, tuple[Callable[[Path], object], str]] = {
    "no_manifest": (lambda d: (d / MANIFEST).unlink(), "manifest.json"),
    "empty_manifest": (lambda d: (d / MANIFEST).write_bytes(b""), "manifest cannot be read"),
    "manifest_is_a_list": (lambda d: (d / MANIFEST).write_text("[]"), "manifest cannot be read"),
    "manifest_is_a_folder": (lambda d: to_folder(d / MANIFEST), "manifest is no file"),
    "digest_in_manifest": (lambda d: flip_in_manifest(d, '"digest": "a'[:-1] + json.loads(
        (d / MANIFEST).read_text())["files"]["source.json"]["digest"][0]), "checksum differs"),
    "inputs_in_manifest": (lambda d: flip_in_manifest(d, '"layout_ver'), "checksum differs"),
    "header": (lambda d: flip(rank_file(d), 40), "the header of weights/tp0.* has the digest"),
    "header_length": (lambda d: flip(rank_file(d), 6), "the header of weights/tp0.* has the digest None"),
    "missing": (lambda d: rank_file(d, 1).unlink(), "weights/tp1.* is missing"),
    "no_weights": (lambda d: (d / "weights").rename(d / "heavies"), "is missing"),
    "cut": (lambda d: os.truncate(rank_file(d), 100), "is 100 bytes long and was sealed with"),
    "longer": (lambda d: rank_file(d).open("ab").write(b"x"), "bytes long and was sealed with"),
    "extra": (lambda d: rank_file(d, 9).write_bytes(b""), "weights/tp9.* is there and was not sealed"),
    "extra_link": (lambda d: (d / "more").symlink_to(d), "more is there and was not sealed"),
    "a_folder": (lambda d: to_folder(rank_file(d)), "weights/tp0.* is no file"),
    "a_link": (lambda d: to_link(rank_file(d)), "weights/tp0.* is no file"),
    "swapped": (swap, "the header of weights/tp"),
}  # fmt: skip
FOUND_IN_FULL: dict[str, tuple[Callable[[Path], object], str]] = {
    "data": (lambda d: flip(rank_file(d), -9), "its digest is .* and was sealed as"),
    "source": (lambda d: (d / "source.json").write_text('{"content": "d"}'), "the digest of source.json is"),
}


@pytest.mark.parametrize("damage", FOUND_QUICKLY)
def test_damage_is_found_at_every_start(damage: str, store: Store, sealed: SealedSet) -> None:
    inflict, message = FOUND_QUICKLY[damage]
    inflict(sealed.directory)
    with pytest.raises(ArtifactDamaged, match=message):
        Store(store.root, read_only=True).find("shards", sealed.key)
    assert store.find("shards", sealed.key) is None
    assert [each.key for each in store.quarantined] == [sealed.key]


@pytest.mark.parametrize("damage", FOUND_IN_FULL)
def test_damaged_data_is_found_when_every_byte_is_read(damage: str, store: Store, sealed: SealedSet) -> None:
    inflict, message = FOUND_IN_FULL[damage]
    inflict(sealed.directory)
    reader = Store(store.root, read_only=True)
    assert reader.find("shards", sealed.key)
    with pytest.raises(ArtifactDamaged, match=message):
        reader.find("shards", sealed.key, verification=Verification.FULL)
    assert store.find("shards", sealed.key, verification=Verification.FULL) is None
    assert len(store.quarantined) == 1


def test_the_full_check_tells_how_far_it_is(store: Store, sealed: SealedSet) -> None:
    seen: list[int] = []
    assert store.find("shards", sealed.key, verification=Verification.FULL, progress=seen.append) == sealed
    assert seen == sorted(seen)
    assert sealed.nbytes * 0.9 < seen[-1] <= sealed.nbytes


def test_another_sets_files_under_a_key_are_found(store: Store, sealed: SealedSet, tmp_path: Path) -> None:
    directory = store.path("shards", "1" * 32)
    sealed.directory.rename(directory)
    assert store.find("shards", "1" * 32) is None
    assert f"the one of shards {sealed.key}" in store.quarantined[0].reason


def test_a_good_set_that_comes_to_the_place_of_a_damaged_one_stays(
    store: Store, sealed: SealedSet, tmp_path: Path
) -> None:
    """Two look at the damage; the slower one comes when the other has quarantined it and rebuilt the set."""
    rank_file(sealed.directory).unlink()
    with store.volume.open("shards", sealed.key) as place:
        assert place
        quicker = Store(store.root)
        assert quicker.find("shards", sealed.key) is None
        again = seal(quicker, tmp_path / "source")
        store.quarantine_area.add(place, "shards", sealed.key, "damaged")
    assert store.find("shards", sealed.key) == again
    assert store.quarantined == []
    assert len(list((store.root / "quarantine").iterdir())) == 2


def test_problems_are_reported_and_nothing_is_changed(store: Store, sealed: SealedSet) -> None:
    rank_file(sealed.directory, 0).unlink()
    os.truncate(rank_file(sealed.directory, 1), 5)
    found = store.problems("shards", sealed.key)
    assert [each.split()[0] for each in found] == [f"weights/{rank_file_name(rank)}" for rank in (0, 1)]
    assert sealed.directory.is_dir()
    assert store.problems("shards", sealed.key, quarantine=True) == found
    assert not sealed.directory.exists()
    assert store.problems("shards", sealed.key) == []


def test_a_newer_set_is_never_put_apart(store: Store, sealed: SealedSet) -> None:
    (sealed.directory / MANIFEST).write_text('{"format": 2}')
    with pytest.raises(ArtifactsTooNew):
        store.problems("shards", sealed.key, quarantine=True)
    with pytest.raises(ArtifactsTooNew), store.build("shards", sealed.key):
        pass
    assert sealed.directory.is_dir()


def test_a_set_that_an_earlier_version_sealed_is_taken(store: Store, sealed: SealedSet) -> None:
    """Without a checksum, and without digests of headers."""
    path = sealed.directory / MANIFEST
    content = json.loads(path.read_text())
    del content["checksum"]
    for entry in content["files"].values():
        del entry["header"]
    path.write_text(json.dumps(content))
    assert store.find("shards", sealed.key, verification=Verification.FULL)
