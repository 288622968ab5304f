"""What nobody needs goes, and nothing that somebody needs."""

import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from neuronmodel_worker.failures import ArtifactsVolumeFull
from neuronmodel_worker.io.disk import free_bytes
from neuronmodel_worker.store import Item, LeaseTimings, Policy, Store, collection, locks
from neuronmodel_worker.store.key_differences import differences
from tests.paths import PROJECT
from tests.unit.worker.store.test_building import begin_and_stop, leftovers, other_writer

ONE, TWO, THREE = ("1" * 32, "2" * 32, "3" * 32)
DAY = 86400


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "artifacts")


def seal(store: Store, key: str, days: float = 0, nbytes: int = 5, inputs: Mapping[str, object] | None = None) -> Path:
    """A set that has lain there for some days."""
    with store.stage("compiled", key) as staging:
        (staging.directory / "model.pt").write_bytes(b"g" * nbytes)
        directory = staging.seal({"inputs": inputs or {}}).directory
    if days:
        age(directory, days)
    return directory


def age(path: Path, days: float) -> None:
    then = time.time() - days * DAY
    os.utime(path, (then, then))


def keys(items: tuple[Item, ...]) -> list[str]:
    return [item.key for item in items]


def test_what_nobody_refers_to_goes_when_it_is_old(store: Store) -> None:
    seal(store, ONE, days=8)
    young, referred = seal(store, TWO, days=6), seal(store, THREE, days=8)
    store.refer("compiled", THREE, "ns.a.u")
    dry = store.collect(Policy(dry_run=True))
    assert keys(dry.items) == [ONE]
    assert store.find("compiled", ONE)
    assert keys(store.collect(Policy()).items) == [ONE]
    assert (store.find("compiled", ONE), young.exists(), referred.exists()) == (None, True, True)
    assert leftovers(store) == []


def test_age_counts_from_the_last_reference(store: Store) -> None:
    seal(store, ONE, days=30)
    store.refer("compiled", ONE, "ns.a.u")
    store.unrefer("ns.a.u")
    assert store.collect(Policy()).items == ()
    age(store.root / "refs" / ONE, 8)
    assert keys(store.collect(Policy()).items) == [ONE]
    assert list((store.root / "refs").iterdir()) == []


def test_what_pods_use_stays_though_nobody_refers_to_it(store: Store) -> None:
    seal(store, ONE, days=8)
    assert store.collect(Policy(keep=frozenset({ONE}))).items == ()
    assert store.remove_unreferenced([ONE], keys_in_use=[ONE]) == []
    assert store.find("compiled", ONE)
    assert store.remove_unreferenced([ONE]) == [ONE]


def test_room_is_made_by_the_oldest_and_no_more_than_is_wanted(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    for key, days in ((ONE, 2), (TWO, 3), (THREE, 1)):
        seal(store, key, days)
    monkeypatch.setattr(collection, "free_bytes", lambda root: 100 * (4 - len(list((root / "compiled").iterdir()))))
    assert keys(store.collect(Policy(older_than_seconds=None, want_bytes=300)).items) == [TWO, ONE]


def test_what_is_damaged_or_half_goes_before_what_is_whole(store: Store) -> None:
    seal(store, ONE, days=50)
    seal(store, TWO)
    store.quarantine("compiled", TWO, "damaged")
    begin_and_stop(store, key=THREE)
    collected = store.collect(Policy(older_than_seconds=0))
    assert [item.what for item in collected.items] == ["quarantined", "staging", "set"]
    assert leftovers(store) == []
    assert list((store.root / "quarantine").iterdir()) == []


def test_a_deleted_models_damaged_sets_go_with_it_and_others_stay(store: Store) -> None:
    for key in (ONE, TWO):
        seal(store, key)
        store.refer("compiled", key, "ns.a.u")
        store.quarantine("compiled", key, "damaged")
    store.refer("compiled", TWO, "ns.b.u")
    assert store.remove_unreferenced(store.retire("ns.a.*")) == []
    assert [(item.what, item.key) for item in store.items()] == [("quarantined", TWO)]


def test_a_reason_for_what_was_never_put_apart_goes(store: Store) -> None:
    seal(store, ONE)
    store.quarantine("compiled", ONE, "damaged")
    lonely = store.root / "quarantine" / f"compiled-{TWO}-0.reason.txt"
    lonely.write_text("damaged")
    with locks.writer_is_dead(lonely, LeaseTimings()):  # as its writer has it locked
        Store(store.root)
        assert lonely.exists()
    Store(store.root)
    assert len(list((store.root / "quarantine").iterdir())) == 2


def test_what_a_job_may_go_on_with_stays(store: Store) -> None:
    begin_and_stop(store)
    store.refer("shards", "0" * 32, "ns.a.u")
    assert store.collect(Policy(older_than_seconds=0)).items == ()
    store.unrefer("ns.a.u")
    assert [item.what for item in store.collect(Policy(older_than_seconds=0)).items] == ["staging"]


def test_a_living_writers_staging_stays(store: Store) -> None:
    with other_writer(store):
        assert store.collect(Policy(older_than_seconds=0)).items == ()
        assert [item.living for item in store.items()] == [True]


def test_who_comes_to_need_a_set_while_it_is_removed_keeps_it(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = seal(store, ONE, days=8)
    rename = Path.rename

    def refer_meanwhile(path: Path, target: Path) -> Path:
        if path == directory:
            store.references.refer("compiled", ONE, "ns.a.u")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", refer_meanwhile)
    assert store.collect(Policy()).items == ()
    assert directory.is_dir()
    assert store.find("compiled", ONE)


def test_who_reads_a_set_reads_on_when_it_is_removed(store: Store) -> None:
    with (seal(store, ONE, nbytes=100) / "model.pt").open("rb", buffering=0) as reader:
        assert len(reader.read(50)) == 50
        assert keys(store.collect(Policy(older_than_seconds=0)).items) == [ONE]
        assert reader.read(50) == b"g" * 50


def test_room_is_made_before_it_is_reported_that_there_is_none(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    seal(store, ONE)
    seal(store, TWO)
    store.refer("compiled", TWO, "ns.a.u")
    room = {1: 700, 2: 500}
    monkeypatch.setattr(collection, "free_bytes", lambda root: room[len(list((root / "compiled").iterdir()))])
    with pytest.raises(ArtifactsVolumeFull, match=r"600 bytes are needed .* and 500 are free"):
        store.require_space(600, collect=False)
    assert store.require_space(500) is None
    collected = store.require_space(600)
    assert collected
    assert keys(collected.items) == [ONE]
    with pytest.raises(ArtifactsVolumeFull, match=rf"700 are free. In use are compiled {TWO} .*, for ns.a.u\. Enlarge"):
        store.require_space(800)


def test_what_is_wanted_now_is_not_removed_for_its_own_room(store: Store) -> None:
    begin_and_stop(store)
    with pytest.raises(ArtifactsVolumeFull, match=r"the started shards 0+ with .* for running pods"):
        store.require_space(free_bytes(store.root) * 2, keep=["0" * 32])
    assert store.adoptable_bytes("shards", "0" * 32)


def test_a_cleanup_that_is_stopped_starts_again(store: Store) -> None:
    seal(store, ONE)
    seal(store, TWO)
    for key in (ONE, TWO):
        store.refer("compiled", key, "ns.a.u")
    store.refer("compiled", TWO, "ns.b.u")
    assert store.retire("ns.a.*") == [ONE, TWO]
    assert Store(store.root).retire("ns.a.*") == [ONE, TWO]
    assert store.owners(ONE) == []
    assert store.remove_unreferenced([ONE, TWO]) == [ONE]
    assert store.retire("ns.a.*") == []
    assert store.owners(TWO) == ["ns.b.u"]


def test_a_key_is_explained_by_what_its_owner_had_before(store: Store) -> None:
    before = {"source": "a", "layout": {"tp_degree": 2, "fused_qkv": True}}
    seal(store, ONE, inputs={"source": "z", "layout": {"tp_degree": 4, "fused_qkv": True}})
    seal(store, TWO, inputs=before)
    wanted = {"source": "a", "layout": {"tp_degree": 4, "fused_qkv": True}}
    assert store.explain("compiled", wanted, "ns.a.u") == ["source: the content of the weights differs"]
    store.refer("compiled", TWO, "ns.a.u")
    assert store.explain("compiled", wanted, "ns.a.u") == ["layout.tp_degree was 2 and is 4"]
    assert store.explain("compiled", {"source": "a", "layout": {"tp_degree": 2}}, "ns.a.u") == [
        "layout.fused_qkv was True and is not there"
    ]
    assert store.explain("shards", wanted, "ns.a.u") == []


@pytest.mark.parametrize(
    ("was", "now", "difference"),
    [("", "-O1", "was empty and is -O1"), (2, "2", "was 2 and is '2'"), ("None", None, "was 'None' and is None")],
)
def test_values_that_look_alike_are_distinguished(was: object, now: object, difference: str) -> None:
    assert differences({"flag": was}, {"flag": now}) == [f"flag {difference}"]


COLLECTOR = """
import sys
from pathlib import Path
from neuronmodel_worker.store import Policy, Store
store = Store(Path(sys.argv[1]))
for _ in range(40):
    store.collect(Policy(older_than_seconds=0))
"""


def test_two_that_collect_and_one_that_builds_harm_nobody(store: Store) -> None:
    command = [sys.executable, "-c", COLLECTOR, str(store.root)]
    others = [subprocess.Popen(command, cwd=PROJECT) for _ in range(2)]
    try:
        seal(store, TWO)
        store.refer("compiled", TWO, "ns.a.u")
        while any(each.poll() is None for each in others):
            seal(store, ONE)
    finally:
        assert [each.wait() for each in others] == [0, 0]
    store.find("compiled", ONE)
    assert store.quarantined == []
    assert Store(store.root).quarantined == []
