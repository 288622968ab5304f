"""Whole files of a repository on a scratch volume: each is as it is listed or is not there, and none is fetched
twice."""

import hashlib
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from neuronmodel_worker.checkpoint import Checkpoint, open_checkpoint
from neuronmodel_worker.failures import SourceChanged
from neuronmodel_worker.scratch_cache import Tier, whole_folders
from neuronmodel_worker.scratch_cache.errors import TierTooSmall
from neuronmodel_worker.scratch_cache.whole_folders import WholeFolder
from neuronmodel_worker.sources.remote.refusals import SourceUnreachable
from tests.standins.hub import Hub
from tests.unit.worker.sharding import small_source
from tests.unit.worker.sources.hubs import REPOSITORY, delivered, opened, wait_little
from tests.waiting import until

PIECE = 4096
FILES = 3


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    wait_little(monkeypatch)
    monkeypatch.setattr(whole_folders, "PIECE_BYTES", PIECE)
    monkeypatch.setattr("neuronmodel_worker.sources.remote.remote_source.HEAD_BYTES", 1024)
    monkeypatch.setattr(whole_folders, "POLL_SECONDS", 0.01)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    directory = small_source(tmp_path / "source", files=FILES)
    (directory / "medusa_heads.pt").write_bytes(b"heads" * 3000)
    (directory / "tokenizer.json").write_text("{}")
    (directory / "modeling.py").write_text("raise SystemExit")
    return directory


@pytest.fixture
def hub(source: Path) -> Iterator[Hub]:
    with Hub() as hub:
        hub.add_repository(REPOSITORY, source)
        yield hub


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    return tmp_path / "scratch"


def checkpoint_of(hub: Hub) -> Checkpoint:
    return open_checkpoint(opened(hub))


def folder_of(hub: Hub, scratch: Path, limit: int | None = None) -> WholeFolder:
    return WholeFolder(Tier(scratch, limit), checkpoint_of(hub), ("medusa_heads.pt", "absent.pt"))


def fetch(folder: WholeFolder) -> Path:
    return folder.fetch(lambda done: None, lambda: None)


def move_on(hub: Hub, source: Path, changed: str) -> None:
    """Another commit, with another content of one file."""
    other = source.with_name("other")
    shutil.copytree(source, other)
    (other / changed).write_text('{"other": 1}')
    hub.add_revision(REPOSITORY, other, "main")


def weights(directory: Path) -> list[Path]:
    return sorted(directory.glob("*.safetensors"))


def contents(directory: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in directory.iterdir()}


def sent(hub: Hub, file: Path) -> int:
    """How many bytes of a file the Hub delivered."""
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    return sum(record.bytes_sent for record in delivered(hub) if digest in record.path)


def test_the_folder_has_every_file_that_is_read_and_no_code(hub: Hub, source: Path, scratch: Path) -> None:
    folder, reached = folder_of(hub, scratch), list[int]()
    directory = folder.fetch(reached.append, lambda: None)
    expected = contents(source)
    del expected["modeling.py"]
    assert contents(directory) == expected
    assert sorted(reached) == reached
    assert reached[-1] == folder.nbytes == sum((source / name).stat().st_size for name in expected)
    assert not any((scratch / "tier/writing").iterdir())


def test_another_worker_and_another_commit_find_it(hub: Hub, source: Path, scratch: Path) -> None:
    first = fetch(folder_of(hub, scratch))
    move_on(hub, source, "modeling.py")
    second = folder_of(hub, scratch)
    hub.requests.clear()
    assert fetch(second) == first
    assert not delivered(hub)


def test_other_files_have_another_folder(hub: Hub, source: Path, scratch: Path) -> None:
    first = folder_of(hub, scratch)
    assert first.key
    move_on(hub, source, "tokenizer.json")
    assert folder_of(hub, scratch).key != first.key


def test_what_was_whole_when_it_ended_is_not_fetched_again(hub: Hub, source: Path, scratch: Path) -> None:
    last = weights(source)[-1]
    digest = hashlib.sha256(last.read_bytes()).hexdigest()
    folder = folder_of(hub, scratch)
    rule = hub.faults.add(origin="cdn", path=f"*{digest}*", first_byte=PIECE, status=403)
    with pytest.raises(Exception, match="refuses to give it"):
        fetch(folder)
    hub.faults.remove(rule.number)
    assert not any((scratch / "tier/folder").glob("*"))
    left = contents(folder.tier.leftover("folder", folder.key))
    assert not {name for name in left if name.endswith(".part")}
    assert weights(source)[0].name in left
    again = folder_of(hub, scratch)
    assert again.key == folder.key
    hub.requests.clear()
    directory = fetch(again)
    assert [sent(hub, file) for file in weights(source)[:-1]] == [0] * (FILES - 1)
    assert sent(hub, last) > 0
    assert contents(directory)[last.name] == digest


def test_a_part_that_a_killed_worker_left_does_not_count(hub: Hub, source: Path, scratch: Path) -> None:
    folder, file = folder_of(hub, scratch), weights(source)[0]
    left = folder.tier.leftover("folder", folder.key)
    left.mkdir(parents=True)
    (left / f"{file.name}.part").write_bytes(file.read_bytes()[:-1])
    (left / weights(source)[1].name).write_bytes(b"short")
    assert contents(fetch(folder)).keys() == contents(source).keys() - {"modeling.py"}
    assert sent(hub, file) >= file.stat().st_size


def test_wrong_content_once_is_fetched_again(hub: Hub, source: Path, scratch: Path) -> None:
    folder = folder_of(hub, scratch)
    rule = hub.faults.add(origin="cdn", first_byte=PIECE, corrupt=True, count=1)
    assert contents(fetch(folder))[weights(source)[0].name] == contents(source)[weights(source)[0].name]
    assert rule.num_used == 1


def test_wrong_content_ever_after_is_refused_and_leaves_nothing(hub: Hub, source: Path, scratch: Path) -> None:
    folder = folder_of(hub, scratch)
    hub.faults.add(origin="cdn", first_byte=PIECE, corrupt=True)
    with pytest.raises(SourceChanged, match="the server lists another content than it delivers"):
        fetch(folder)
    assert not weights(folder.tier.leftover("folder", folder.key))
    assert folder.found() is None


def test_room_is_known_beforehand_with_both_figures(hub: Hub, scratch: Path) -> None:
    folder = folder_of(hub, scratch, limit=50_000)
    hub.requests.clear()
    with pytest.raises(TierTooSmall) as small:
        folder.require_room()
    assert (small.value.needed_bytes, small.value.writable_bytes) == (folder.nbytes, 45_000)
    with pytest.raises(TierTooSmall):
        fetch(folder)
    assert not delivered(hub)
    enough = folder_of(hub, scratch, limit=folder.nbytes * 2)
    enough.require_room()
    assert fetch(enough).is_dir()
    enough.require_room()


def test_room_is_made_of_copies_that_nobody_uses(hub: Hub, scratch: Path) -> None:
    tier = Tier(scratch)
    old = tier.begin("shards", "old", 100_000)
    assert old
    (old.directory / "file").write_bytes(b"x" * 100_000)
    old.publish()
    folder = folder_of(hub, scratch, limit=folder_of(hub, scratch).nbytes * 10 // 9 + 60_000)
    with pytest.raises(TierTooSmall):
        folder.require_room()
    tier.close()
    folder.require_room()
    assert not (scratch / "tier/shards/old").exists()


@pytest.mark.parametrize("full", [False, True])
def test_a_damaged_folder_is_made_again(hub: Hub, source: Path, scratch: Path, full: bool) -> None:
    directory = fetch(folder_of(hub, scratch))
    file = directory / weights(source)[1].name
    content = bytearray(file.read_bytes())
    content[-9] ^= 1
    file.write_bytes(content if full else content[:-1])
    again = folder_of(hub, scratch).fetch(lambda done: None, lambda: None, full=full)
    assert contents(again)[file.name] == contents(source)[file.name]


def test_two_workers_fetch_it_once(hub: Hub, source: Path, scratch: Path) -> None:
    rule = hub.faults.add(origin="cdn", first_byte=PIECE, stall_after_bytes=0)
    waited, found = threading.Event(), list[Path]()
    one, other = folder_of(hub, scratch), folder_of(hub, scratch)
    threads = [
        threading.Thread(target=lambda: found.append(fetch(one))),
        threading.Thread(target=lambda: found.append(other.fetch(lambda done: None, waited.set))),
    ]
    threads[0].start()
    until(lambda: rule.num_used, "the first one to fetch")
    threads[1].start()
    assert waited.wait(60)
    hub.faults.remove(rule.number)
    for thread in threads:
        thread.join()
    assert found == [found[0]] * 2
    assert contents(found[0]).keys() == contents(source).keys() - {"modeling.py"}
    last = weights(source)[-1]
    assert sent(hub, last) < 2 * last.stat().st_size
    assert not any((scratch / "tier/writing").iterdir())


def test_it_is_removed_by_who_needs_it_no_more_unless_another_uses_it(hub: Hub, scratch: Path) -> None:
    one, other = folder_of(hub, scratch), folder_of(hub, scratch)
    directory = fetch(one)
    assert fetch(other) == directory
    one.tier.finished_with("folder", one.key)
    assert directory.is_dir()
    other.tier.finished_with("folder", other.key)
    assert not directory.exists()


def test_without_the_server_what_is_there_is_used(hub: Hub, scratch: Path) -> None:
    first, second = folder_of(hub, scratch), folder_of(hub, scratch)
    assert second.key
    hub.down()
    with pytest.raises(SourceUnreachable):
        fetch(first)
    hub.up()
    directory = fetch(folder_of(hub, scratch))
    hub.down()
    assert fetch(second) == directory
