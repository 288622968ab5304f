"""Several writers of one set: leases save double work, sealed rank files are adopted, nothing rests on either."""

import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from neuronmodel_worker.failures import ArtifactsVolumeFull
from neuronmodel_worker.io.disk import WrittenFile
from neuronmodel_worker.store import Lease, LeaseTimings, SealedSet, Staging, Store, locks
from neuronmodel_worker.store.atomic_files import header_digest, whole_digest
from neuronmodel_worker.store.leases import acquire
from neuronmodel_worker.store.staging import sealed_files
from neuronmodel_worker.stream import rank_file_name
from tests.paths import PROJECT

KEY = "0" * 32
# Nobody renews while a test runs, nobody waits.
STILL = LeaseTimings(renew_seconds=3600, poll_seconds=0)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "artifacts", timings=STILL)


@dataclass
class Clock:
    """Time passes when somebody waits."""

    now: float = 0.0

    def patience(self) -> LeaseTimings:
        return LeaseTimings(renew_seconds=3600, clock=lambda: self.now, pause=self.pass_by)

    def pass_by(self, seconds: float) -> None:
        self.now += seconds


def write_rank(staging: Staging, rank: int, content: bytes | None = None, seal: bool = True) -> WrittenFile:
    """A safetensors file of one tensor of one byte."""
    header = b'{"r":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"__metadata__":{"rank":"%d"}}' % rank
    path = staging.directory / "weights" / rank_file_name(rank)
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content or len(header).to_bytes(8, "little") + header + b"x")
    written = WrittenFile(path.name, path.stat().st_size, whole_digest(path), header=header_digest(path))
    if seal:
        staging.seal_rank(rank, written)
    return written


class Killed(BaseException):
    """As a signal unwinds a writer."""


def begin_and_stop(store: Store, ranks: int = 2, key: str = KEY) -> None:
    """Seals that many ranks, leaves one without a seal, and does not come to the end."""
    with suppress(Killed), store.build("shards", key) as work:
        for rank in range(ranks):
            write_rank(work.staging, rank)
        write_rank(work.staging, ranks, seal=False)
        raise Killed


def leftovers(store: Store) -> list[str]:
    return sorted(path.name for path in (store.root / "staging").iterdir())


def build(store: Store, ranks: int = 3) -> tuple[SealedSet, list[str]]:
    with store.build("shards", KEY) as work:
        adopted = sorted(work.staging.adopted)
        for rank in range(ranks):
            if rank_file_name(rank) not in work.staging.adopted:
                write_rank(work.staging, rank)
        return work.staging.seal(), adopted


def test_what_is_there_is_not_built(store: Store) -> None:
    sealed, _ = build(store)
    with store.build("shards", KEY) as work:
        assert work.present == sealed
        with pytest.raises(RuntimeError, match="nothing is to be written"):
            _ = work.staging
    assert leftovers(store) == []
    assert list((store.root / "leases").iterdir()) == []


def test_sealed_rank_files_outlive_their_writer_and_are_adopted(store: Store) -> None:
    begin_and_stop(store)
    again = Store(store.root, timings=STILL)
    (left,) = [each for each in (store.root / "staging").iterdir() if each.is_dir()]
    assert sorted(each.name for each in (left / "weights").iterdir()) == [rank_file_name(0), rank_file_name(1)]
    size = (left / "weights" / rank_file_name(0)).stat().st_size
    assert again.adoptable_bytes("shards", KEY) == 2 * size
    assert again.adoptable_bytes("shards", "1" * 32) == 0
    sealed, adopted = build(again)
    assert adopted == [rank_file_name(0), rank_file_name(1)]
    assert len(sealed.files("weights")) == 3
    assert leftovers(store) == []
    assert again.problems("shards", KEY, full=True) == []


def test_files_are_moved_where_there_are_no_links(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    begin_and_stop(store)

    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    assert build(store)[1] == [rank_file_name(0), rank_file_name(1)]
    assert leftovers(store) == []


def damaged_header(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b"rank", b"rang"))


@pytest.mark.parametrize("damage", [damaged_header, lambda path: path.write_bytes(b""), Path.unlink])
def test_what_is_not_as_it_was_sealed_is_not_adopted(damage: object, store: Store) -> None:
    begin_and_stop(store)
    (path,) = store.root.glob(f"staging/*/weights/{rank_file_name(0)}")
    assert callable(damage)
    damage(path)
    assert build(store)[1] == [rank_file_name(1)]


def test_another_keys_files_are_not_adopted(store: Store) -> None:
    begin_and_stop(store, key="1" * 32)
    assert build(store)[1] == []
    assert store.adoptable_bytes("shards", "1" * 32)


def test_a_writer_that_was_stopped_after_its_manifest_loses_nothing(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(staging: Staging, manifest: object) -> SealedSet:
        raise Killed

    with suppress(Killed), store.build("shards", KEY) as work:
        write_rank(work.staging, 0)
        (work.staging.directory / "source.json").write_text("{}")
        monkeypatch.setattr(work.staging, "_publish", stop)
        work.staging.seal()
    sealed, adopted = build(store, 1)
    assert adopted == [rank_file_name(0)]
    assert list(sealed.manifest.files) == [f"weights/{rank_file_name(0)}"]


def test_notes_come_with_what_is_adopted(store: Store) -> None:
    with suppress(Killed), store.build("shards", KEY) as work:
        work.staging.note("pieces", b"1")
        work.staging.note("pieces", b"12")
        write_rank(work.staging, 0)
        raise Killed
    with suppress(Killed), store.build("shards", KEY) as work:
        assert work.staging.notes == {"pieces": b"12"}
        raise Killed
    with store.build("shards", KEY) as work:
        assert (work.staging.notes, list(work.staging.adopted)) == ({"pieces": b"12"}, [rank_file_name(0)])


def test_a_full_volume_leaves_no_remains(store: Store) -> None:
    with suppress(ArtifactsVolumeFull), store.build("shards", KEY) as work:
        write_rank(work.staging, 0)
        raise ArtifactsVolumeFull(store.root, None, 0)
    assert leftovers(store) == []
    assert list((store.root / "leases").iterdir()) == []


WRITER = """
import sys
from pathlib import Path
from tests.unit.worker.store.test_building import STILL, write_rank
from neuronmodel_worker.store import Store
with Store(Path(sys.argv[1]), timings=STILL).build("shards", "0" * 32) as work:
    write_rank(work.staging, 0)
    print("sealed", flush=True)
    sys.stdin.readline()
    write_rank(work.staging, 1)
    print(work.lease.lost, work.staging.seal().directory, flush=True)
"""


@contextmanager
def other_writer(store: Store) -> Iterator[subprocess.Popen[str]]:
    """A process that has sealed rank 0, and goes on with a line on its standard input."""
    command = [sys.executable, "-c", WRITER, str(store.root)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, cwd=PROJECT, text=True, **pipes) as writer:  # type: ignore[call-overload]
        try:
            assert writer.stdout.readline() == "sealed\n"
            yield writer
        finally:
            writer.kill()


def test_a_dead_writers_work_is_gone_on_with_at_once(store: Store) -> None:
    with other_writer(store) as writer:
        writer.kill()
        writer.wait()
        assert build(store)[1] == [rank_file_name(0)]
    assert leftovers(store) == []
    assert list((store.root / "leases").iterdir()) == []


def test_a_holder_that_was_taken_over_goes_on_and_loses_quietly(store: Store) -> None:
    clock = Clock()
    with other_writer(store) as writer:
        impatient = Store(store.root, timings=clock.patience())
        before = leftovers(store)
        sealed, adopted = build(impatient)
        assert adopted == [rank_file_name(0)]
        assert 60 <= clock.now < 70
        assert leftovers(store) == before
        print(file=writer.stdin, flush=True)
        assert writer.stdout
        assert writer.stdout.readline() == f"True {sealed.directory}\n"
        assert writer.wait() == 0
    assert leftovers(store) == []
    assert impatient.problems("shards", KEY, full=True) == []


def test_who_waits_finds_what_the_holder_sealed(store: Store) -> None:
    holders: list[str] = []
    with other_writer(store) as writer:

        def waiting(holder: str, seconds: float) -> None:
            if not holders:
                print(file=writer.stdin, flush=True)
            holders.append(holder)

        patient = replace(LeaseTimings(), poll_seconds=0.01)
        with Store(store.root, timings=patient).build("shards", KEY, waiting) as work:
            assert work.present
            assert len(work.present.manifest.files) == 2
    assert holders[0].startswith(f"process {writer.pid} on ")


def test_a_lease_that_is_renewed_is_waited_for(tmp_path: Path) -> None:
    clock = Clock()
    held = acquire(tmp_path / "lease", clock.patience(), lambda: None)
    assert isinstance(held, Lease)

    def waiting(holder: str, seconds: float) -> None:
        if seconds < 600:
            held.renew()

    taken = acquire(tmp_path / "lease", clock.patience(), lambda: None, waiting)
    assert isinstance(taken, Lease)
    assert 655 <= clock.now <= 665
    assert (held.lost, taken.lost) == (True, False)
    content = (tmp_path / "lease").read_bytes()
    held.renew()
    held.release()
    assert (tmp_path / "lease").read_bytes() == content
    taken.release()
    assert list(tmp_path.iterdir()) == []


def test_a_lease_that_nobody_wrote_into_is_taken_over(tmp_path: Path) -> None:
    (tmp_path / "lease").touch()
    clock = Clock()
    assert isinstance(acquire(tmp_path / "lease", clock.patience(), lambda: None), Lease)
    assert clock.now < 10


@pytest.mark.parametrize(
    ("mount", "shared"),
    [
        ("25 1 8:1 / / rw - ext4 /dev/sda1 rw", True),
        ("25 1 8:1 / /a rw shared:3 - nfs4 fs-1:/ rw,vers=4.1,local_lock=none", True),
        ("25 1 8:1 / /a rw - nfs fs-1:/ rw,vers=3,nolock,local_lock=all", False),
        ("25 1 8:1 / /a rw - nfs fs-1:/ rw,vers=3,local_lock=flock", False),
        ("25 1 8:1 / /a rw - lustre fs-1:/ rw", False),
        ("25 1 8:1 / /a rw - fuse.s3 s3 rw", False),
    ],
)
def test_locks_are_believed_where_they_reach_everybody(
    mount: str, shared: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = tmp_path.stat().st_dev
    mounts = tmp_path / "mountinfo"
    ours = mount.replace("8:1", f"{os.major(device)}:{os.minor(device)}")
    mounts.write_text(f"1 1 99:99 / / rw - fuse x rw\n{ours}\n")
    monkeypatch.setattr(locks, "MOUNTS", mounts)
    assert locks.locks_reach_everybody(tmp_path) is shared


def test_a_writer_on_another_node_is_alive_until_it_was_silent_for_long(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where locks stay on a node, its lock looks free."""
    monkeypatch.setattr(locks, "locks_reach_everybody", lambda path: False)
    begin_and_stop(store)
    (lock,) = store.root.glob("staging/*.lock")
    lock.write_text('{"host": "other", "pid": 1, "boot": "another"}')
    before = leftovers(store)
    with Store(store.root, timings=STILL).build("shards", KEY) as work:
        assert list(work.staging.adopted) == [rank_file_name(0), rank_file_name(1)]
        assert set(before) < set(leftovers(store))
        work.staging.seal()
    assert leftovers(store) == before
    hour_ago = lock.stat().st_mtime - 3700
    os.utime(lock, (hour_ago, hour_ago))
    Store(store.root, timings=STILL)
    assert leftovers(store) == []


def test_seals_of_anything_are_no_seals(store: Store) -> None:
    begin_and_stop(store)
    (directory,) = [each for each in (store.root / "staging").iterdir() if each.is_dir()]
    for name, content in {"a": b"", "b": b"[]", "c": b'{"kind": "shards"}', "d": b"\xff"}.items():
        (directory / "seals" / f"{name}.json").write_bytes(content)
    assert sorted(sealed_files(directory, "shards", KEY)) == [rank_file_name(0), rank_file_name(1)]
