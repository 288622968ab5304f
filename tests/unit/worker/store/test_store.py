"""Sets are what their key says, whole or absent."""

import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from neuronmodel_worker.failures import ArtifactDamaged, ArtifactsTooNew, ArtifactsUnreadable, ArtifactsVolumeFull
from neuronmodel_worker.io.disk import WrittenFile, free_bytes
from neuronmodel_worker.store import Policy, SealedSet, Store, compiled_key, shards_key
from neuronmodel_worker.stream import FileSink, read_rank_files, run
from tests.paths import PROJECT
from tests.unit.worker.sharding import small_plan, small_source

KEY = "0" * 32


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "artifacts")


def seal(store: Store, key: str = KEY, files: Mapping[str, bytes] | None = None, **extra: Any) -> SealedSet:
    with store.stage("compiled", key) as staging:
        for name, content in (files or {"model.pt": b"graph"}).items():
            (staging.directory / name).parent.mkdir(parents=True, exist_ok=True)
            (staging.directory / name).write_bytes(content)
        return staging.seal(extra)


def leftovers(store: Store) -> list[str]:
    return [path.name for path in (store.root / "staging").iterdir()]


def test_a_sealed_set_is_found_under_its_key_alone(store: Store) -> None:
    sealed = seal(store, inputs={"compiler": "1"}, source_fingerprint="f")
    found = store.find("compiled", KEY)
    assert found == sealed
    assert found.manifest.inputs == {"compiler": "1"}
    assert found.manifest.source_fingerprint == "f"
    assert found.nbytes == 5
    assert store.find("shards", KEY) is None
    assert store.find("compiled", "1" * 32) is None
    assert leftovers(store) == []


def test_what_was_not_sealed_does_not_exist(store: Store) -> None:
    with store.stage("compiled", KEY) as staging:
        (staging.directory / "model.pt").write_text("half")
        assert store.find("compiled", KEY) is None
    with pytest.raises(RuntimeError, match="stop"), store.stage("compiled", KEY) as staging:
        raise RuntimeError("stop")
    assert store.find("compiled", KEY) is None
    assert leftovers(store) == []


def test_the_second_writer_of_a_key_loses_quietly(store: Store) -> None:
    with store.stage("compiled", KEY) as late:
        (late.directory / "model.pt").write_text("late")
        first = seal(store)
        assert late.seal() == first
    assert (first.directory / "model.pt").read_text() == "graph"
    assert leftovers(store) == []


def test_files_can_be_read_and_removed_by_the_group(store: Store) -> None:
    before = os.umask(0o077)
    try:
        sealed = seal(store, files={"weights/a": b"x"})
    finally:
        os.umask(before)
    for path in [sealed.directory, *sealed.directory.rglob("*")]:
        wanted = 0o770 if path.is_dir() else 0o660
        assert path.stat().st_mode & wanted == wanted


DAMAGE: dict[str, Callable[[Path], object]] = {
    "file_missing": lambda d: (d / "model.pt").unlink(),
    "file_cut": lambda d: (d / "model.pt").write_text("gra"),
    "no_manifest": lambda d: (d / "manifest.json").unlink(),
    "manifest_cut": lambda d: (d / "manifest.json").write_text("{"),
    "other_key": lambda d: (d / "manifest.json").write_text(
        json.dumps({**json.loads((d / "manifest.json").read_text()), "key": "2" * 32})
    ),
    "outside": lambda d: (d / "manifest.json").write_text(
        (d / "manifest.json").read_text().replace('"model.pt"', '"../../../x"')
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_set_is_quarantined_with_its_reason_and_rebuilt(damage: str, store: Store) -> None:
    DAMAGE[damage](seal(store).directory)
    assert store.find("compiled", KEY) is None
    (apart,) = store.quarantined
    assert (apart.kind, apart.key) == ("compiled", KEY)
    assert apart.directory.is_dir()
    assert (apart.directory.parent / f"{apart.directory.name}.reason.txt").read_text() == f"{apart.reason}\n"
    assert store.find("compiled", KEY) is None
    assert seal(store) == store.find("compiled", KEY)
    assert len(store.quarantined) == 1


@pytest.mark.parametrize("damage", DAMAGE)
def test_who_only_reads_reports_damage_and_changes_nothing(damage: str, store: Store) -> None:
    directory = seal(store).directory
    DAMAGE[damage](directory)
    reader = Store(store.root, read_only=True)
    with pytest.raises(ArtifactDamaged, match=KEY):
        reader.find("compiled", KEY)
    assert directory.exists()


def test_a_set_of_a_newer_format_is_left_as_it_is(store: Store) -> None:
    manifest = seal(store).directory / "manifest.json"
    manifest.write_text(json.dumps({"format": 2, "whatever": "it then says"}))
    with pytest.raises(ArtifactsTooNew, match=r"in format 2, .* up to 1"):
        store.find("compiled", KEY)
    assert (manifest.exists(), store.quarantined) == (True, [])


def test_a_volume_that_fails_is_no_reason_to_rebuild(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = seal(store).directory

    def fail(self: Path) -> bytes:
        raise OSError(errno.ESTALE, "Stale file handle", str(self))

    monkeypatch.setattr(Path, "read_bytes", fail)
    with pytest.raises(ArtifactsUnreadable, match=r"manifest.json.*Stale file handle"):
        store.find("compiled", KEY)
    assert (directory.exists(), store.quarantined) == (True, [])


def test_a_reader_of_an_empty_volume_makes_nothing(tmp_path: Path) -> None:
    assert Store(tmp_path, read_only=True).find("shards", KEY) is None
    assert list(tmp_path.iterdir()) == []


def test_a_late_writer_replaces_a_damaged_set(store: Store) -> None:
    with store.stage("compiled", KEY) as late:
        (late.directory / "model.pt").write_text("late")
        (seal(store).directory / "model.pt").unlink()
        late.seal()
    found = store.find("compiled", KEY)
    assert found
    assert (found.directory / "model.pt").read_text() == "late"
    assert len(store.quarantined) == 1


WRITER = """
import sys
from pathlib import Path
from neuronmodel_worker.store import Store
with Store(Path(sys.argv[1])).stage("compiled", "0" * 32) as staging:
    (staging.directory / "model.pt").write_text("half")
    print("staged", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def living_writer(store: Store) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-c", WRITER, str(store.root)]
    with subprocess.Popen(command, cwd=PROJECT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as writer:
        assert writer.stdout
        assert writer.stdout.readline() == b"staged\n"
        yield writer
        writer.kill()


def test_a_living_writers_staging_is_left_alone_and_a_dead_ones_is_removed(
    store: Store, living_writer: subprocess.Popen[bytes]
) -> None:
    before = leftovers(store)
    assert len(before) == 2
    Store(store.root)
    assert leftovers(store) == before
    living_writer.kill()
    living_writer.wait()
    Store(store.root, read_only=True)
    assert leftovers(store) == before
    Store(store.root)
    assert leftovers(store) == []


def test_a_staging_without_its_lock_belongs_to_nobody(store: Store) -> None:
    (store.root / "staging" / f"compiled-{KEY}-x").mkdir(parents=True)
    Store(store.root)
    assert leftovers(store) == []


def test_what_people_keep_on_the_volume_is_none_of_ours(store: Store) -> None:
    theirs = [
        store.root / place / name
        for place in ("staging", "quarantine")
        for name in ("mine/data", "compiled-model/graph", f"{KEY}/data", "of-mine.lock")
    ]
    theirs += [
        store.root / name for name in ("compiled/traced/model.pt", "shards/notes", "leases/mine", "leases/of/car")
    ]
    for path in theirs:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("precious")
    for path in (store.root / "compiled/traced", store.root / "shards/notes"):
        os.utime(path, (0, 0))
    again = Store(store.root)
    assert again.items() == []
    again.collect(Policy(older_than_seconds=0))
    assert all(path.read_text() == "precious" for path in theirs)


def test_a_set_goes_when_its_last_reference_goes(store: Store) -> None:
    directory = seal(store).directory
    store.refer("compiled", KEY, "ns.one.u1")
    store.refer("compiled", KEY, "ns.two.u2")
    assert store.remove_unreferenced(store.unrefer("ns.one.u1")) == []
    assert directory.exists()
    assert store.remove_unreferenced(store.unrefer("ns.two.u2")) == [KEY]
    assert not directory.exists()
    assert leftovers(store) == []
    assert list((store.root / "refs").iterdir()) == []


def test_a_change_of_key_drops_the_references_that_are_no_longer_true(store: Store) -> None:
    seal(store)
    seal(store, "1" * 32)
    store.refer("compiled", KEY, "ns.one.u1")
    store.refer("compiled", "1" * 32, "ns.one.u1")
    assert store.unrefer("ns.one.u1", keep=["1" * 32]) == [KEY]
    assert store.owners("1" * 32) == ["ns.one.u1"]


def test_a_later_model_of_the_same_name_takes_references_over(store: Store) -> None:
    seal(store)
    store.refer("compiled", KEY, "ns.one.u1")
    store.refer("compiled", KEY, "ns.one.u2")
    assert store.owners(KEY) == ["ns.one.u2"]
    store.refer("compiled", KEY, "ns.other.u3")
    assert store.owners(KEY) == ["ns.one.u2", "ns.other.u3"]


def test_the_references_of_every_model_of_a_name_can_go_at_once(store: Store) -> None:
    store.refer("compiled", KEY, "ns.one.u1")
    store.refer("compiled", KEY, "ns.one-more.u2")
    assert store.unrefer("ns.one.*") == [KEY]
    assert store.owners(KEY) == ["ns.one-more.u2"]


def test_space_is_asked_for_before_work(store: Store) -> None:
    store.require_space(1)
    free = free_bytes(store.root)
    with pytest.raises(ArtifactsVolumeFull) as failure:
        store.require_space(2 * free)
    assert failure.value.needed_bytes == 2 * free


def test_keys_follow_their_inputs_and_nothing_else() -> None:
    assert compiled_key({"a": 1, "b": [2]}) == compiled_key({"b": [2], "a": 1})
    assert compiled_key({"a": 1}) != compiled_key({"a": 2})
    assert shards_key("f", {"tp": 1}) != shards_key("g", {"tp": 1})
    assert shards_key("f", {"tp": 1}) != shards_key("f", {"tp": 2})
    assert len(shards_key("f", {})) == 32


def test_shards_are_sealed_with_the_digests_taken_while_writing(store: Store, tmp_path: Path) -> None:
    plan = small_plan(small_source(tmp_path / "source"))
    key = shards_key(plan.checkpoint.fingerprint, plan.layout_inputs())
    with store.stage("shards", key) as staging:
        result = run(plan, FileSink(staging.directory / "weights"))
        staging.record(result.files, under="weights")
        sealed = staging.seal()
    assert sealed.files("weights") == {file.name: file for file in result.files}
    assert read_rank_files(sealed.directory / "weights", plan.ranks, sealed=sealed.files("weights"), full=True)


def test_a_digest_of_another_length_of_file_is_not_believed(store: Store) -> None:
    with store.stage("compiled", KEY) as staging:
        (staging.directory / "model.pt").write_text("graph")
        staging.record([WrittenFile("model.pt", 4, "wrong")])
        assert staging.seal().manifest.files["model.pt"].digest != "wrong"
