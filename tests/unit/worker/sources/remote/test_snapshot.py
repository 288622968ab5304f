"""What is kept of a commit: whole or not at all, replaced where it is damaged, and nobody's who uses it is removed."""

import os
import stat
from datetime import UTC, datetime
from pathlib import Path

import pytest

from neuronmodel_worker.checkpoint import CONFIG_FILE, GENERATION_FILE, INDEX_FILE, open_checkpoint
from neuronmodel_worker.checkpoint.quantization import QUANTIZER_FILES
from neuronmodel_worker.failures import SourceChanged
from neuronmodel_worker.sources.hub.address import HubAddress
from neuronmodel_worker.sources.hub.repository import HubRepository, open_repository
from neuronmodel_worker.sources.remote.listed_file import ListedFile
from neuronmodel_worker.sources.remote.refusals import SourceUnreachable
from neuronmodel_worker.sources.remote.snapshot import MAX_SNAPSHOTS, UNUSED_SECONDS, Snapshots, is_small
from neuronmodel_worker.text.tokenizer_files import NAMES
from tests.standins.hub import Hub
from tests.unit.worker.sources.hubs import REPOSITORY, git_digest, served

CONFIG = b'{"model_type": "llama"}'
NOTED_AT = datetime(2026, 11, 1, 12, tzinfo=UTC)
HEADER = b"\x08\0\0\0\0\0\0\0{}      "


def commit(number: int) -> str:
    return f"{number:040x}"


def files() -> list[ListedFile]:
    return [
        ListedFile("config.json", len(CONFIG), git_digest(CONFIG)),
        ListedFile("model.safetensors", 1000, "", "a" * 64),
    ]


def keep(snapshots: Snapshots, number: int = 1) -> Path:
    contents = {"config.json": CONFIG}
    return snapshots.write(commit(number), files(), contents, {"model.safetensors": HEADER}).directory


@pytest.fixture
def snapshots(tmp_path: Path) -> Snapshots:
    return Snapshots(tmp_path / "hub", REPOSITORY)


def opened(hub: Hub, kept: Path, revision: str = "main") -> HubRepository:
    repository = open_repository(HubAddress(REPOSITORY, revision), served(hub), kept)
    open_checkpoint(repository)
    return repository


def test_a_kept_commit_is_opened_without_a_request(hub: Hub, tmp_path: Path) -> None:
    first = opened(hub, tmp_path / "hub")
    folder = first.folder()
    hub.requests.clear()
    second = opened(hub, tmp_path / "hub", first.commit)
    assert second.folder() == folder
    assert open_checkpoint(second).fingerprint == open_checkpoint(first).fingerprint
    assert not list(hub.requests)


def test_without_the_hub_a_branch_is_the_commit_that_it_was(hub: Hub, tmp_path: Path) -> None:
    first = opened(hub, tmp_path / "hub")
    first.folder()
    hub.down()
    assert opened(hub, tmp_path / "hub").commit == first.commit
    with pytest.raises(SourceUnreachable):
        opened(hub, tmp_path / "hub", "another")


@pytest.mark.parametrize("damaged", ["files/config.json", "headers/model.safetensors"])
def test_a_damaged_file_counts_as_absent_and_is_replaced(snapshots: Snapshots, damaged: str) -> None:
    directory = keep(snapshots)
    (directory / damaged).write_bytes(b"{")
    found = snapshots.read(commit(1))
    assert found is not None
    assert not found.is_whole
    keep(snapshots)
    found = snapshots.read(commit(1))
    assert found is not None
    assert found.is_whole
    assert [found.content(files()[0]), found.header(files()[1])] == [CONFIG, HEADER]


def test_a_damaged_one_that_cannot_be_replaced_is_not_returned(
    snapshots: Snapshots, monkeypatch: pytest.MonkeyPatch
) -> None:
    (keep(snapshots) / "files/config.json").write_bytes(b"{")

    def refused(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(Path, "rename", refused)
    with pytest.raises(OSError, match="cannot be read"):
        keep(snapshots)


def test_headers_are_added_to_one_that_has_none(snapshots: Snapshots) -> None:
    snapshots.write(commit(1), files(), {"config.json": CONFIG}, {})
    keep(snapshots)
    found = snapshots.read(commit(1))
    assert found is not None
    assert found.header(files()[1]) == HEADER


def test_only_what_was_not_opened_for_long_is_removed(snapshots: Snapshots) -> None:
    kept = [keep(snapshots, number) for number in range(MAX_SNAPSHOTS + 3)]
    assert all(directory.exists() for directory in kept)
    for directory in kept[:2]:
        long_ago = directory.stat().st_mtime - UNUSED_SECONDS - 10
        os.utime(directory, (long_ago, long_ago))
    snapshots.read(commit(1))
    keep(snapshots, 99)
    assert [directory.exists() for directory in kept[:3]] == [False, True, True]


def test_what_a_killed_worker_left_is_removed(snapshots: Snapshots) -> None:
    left = keep(snapshots).with_name(".snapshot-left")
    left.mkdir()
    os.utime(left, (1, 1))
    keep(snapshots, 2)
    assert not left.exists()


def test_a_revision_of_any_name_is_noted(snapshots: Snapshots) -> None:
    keep(snapshots)
    for revision in ("main", "refs/pr/12", "b" * 250):
        snapshots.note_revision(revision, commit(1), NOTED_AT)
        assert snapshots.noted_revision(revision) == (commit(1), NOTED_AT)
    assert snapshots.noted_revision("other") is None


def test_a_volume_that_takes_no_write_is_no_obstacle(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "hub").write_text("a file in the place of the folder")
    repository = opened(hub, tmp_path / "hub")
    assert (repository.folder() / "config.json").exists()


def test_a_small_file_that_is_listed_and_missing_is_no_crash(hub: Hub, tmp_path: Path) -> None:
    repository = opened(hub, tmp_path / "hub")
    repository.files["tokenizer.json"] = ListedFile("tokenizer.json", 10, "b" * 40)
    with pytest.raises(SourceChanged, match="the server lists it and does not have it"):
        repository.folder()


@pytest.mark.parametrize("name", sorted({*NAMES, *QUANTIZER_FILES, CONFIG_FILE, INDEX_FILE, GENERATION_FILE}))
def test_every_small_file_that_something_reads_is_kept(name: str) -> None:
    assert is_small(ListedFile(name, 1, ""))
    assert not is_small(ListedFile("modeling.py", 1, ""))


def test_the_group_may_change_what_is_kept(snapshots: Snapshots) -> None:
    """The Job and the worker share a group, not always a user."""
    directory = keep(snapshots)
    snapshots.note_revision("main", commit(1), NOTED_AT)
    folders = [directory, directory / "files", directory.parent, directory.parent / "revisions", snapshots.folder]
    assert [stat.S_IMODE(folder.stat().st_mode) & 0o770 for folder in folders] == [0o770] * 5


def test_a_snapshot_that_is_in_use_is_kept_however_old(snapshots: Snapshots) -> None:
    """Workers that serve only read the volume, so nothing shows that they opened it."""
    old = keep(snapshots)
    os.utime(old, (1, 1))
    contents = {"config.json": CONFIG}
    for number in range(2, MAX_SNAPSHOTS + 3):
        snapshots.write(commit(number), files(), contents, {"model.safetensors": HEADER}, {commit(1)})
        os.utime(old, (1, 1))
    assert old.exists()
    snapshots.write(commit(99), files(), contents, {"model.safetensors": HEADER})
    assert not old.exists()


def test_a_revision_of_one_endpoint_says_nothing_of_another_s(hub: Hub, tmp_path: Path) -> None:
    opened(hub, tmp_path / "hub").folder()
    with Hub() as other:
        other.down()
        with pytest.raises(SourceUnreachable):
            opened(other, tmp_path / "hub")
