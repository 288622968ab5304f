"""One content, and so one key, for a repository and for folders that were downloaded from it: as far as they say so."""

import hashlib
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from neuronmodel_worker.checkpoint import open_checkpoint
from neuronmodel_worker.plan.streamed import StreamedPlan, make_plan
from neuronmodel_worker.prepare.identify import Identity, identify
from neuronmodel_worker.store.source_records import SourceRecords, downloaded_content, file_stats, recorded_content
from tests import hub_client
from tests.standins.hub import Hub
from tests.unit.standins.hub.test_clients import run as run_client
from tests.unit.worker.sharding import small_plan, small_source
from tests.unit.worker.sources.hubs import REPOSITORY, opened, wait_little
from tests.unit.worker.store.test_sources import change_last_byte, resolved, shard, touch, weights

FLAGS = {"tp_degree": 4}
COMMIT = "c" * 40


@pytest.fixture(autouse=True)
def _waiting_little(monkeypatch: pytest.MonkeyPatch) -> None:
    wait_little(monkeypatch)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return small_source(tmp_path / "source", files=2)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "artifacts").mkdir()
    return tmp_path / "artifacts"


@pytest.fixture
def hub(source: Path) -> Iterator[Hub]:
    with Hub() as hub:
        hub.add_repository(REPOSITORY, source)
        yield hub


@pytest.fixture
def listed(hub: Hub, root: Path) -> str:
    """The content of the repository."""
    content = identify(root, plan_of_hub(hub)).content
    assert content
    return content


@pytest.fixture
def folder(source: Path, tmp_path: Path) -> Path:
    """As a download leaves it, a moment after the files were written."""
    directory = tmp_path / "folder"
    shutil.copytree(source, directory)
    for file in weights(directory):
        os.utime(file)
        record(file, sha256(file))
    return directory


def plan_of_hub(hub: Hub) -> StreamedPlan:
    return make_plan(open_checkpoint(opened(hub)), FLAGS)


def sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def record(file: Path, etag: str, at: float | str | None = None) -> Path:
    path = file.parent / ".cache/huggingface/download" / f"{file.name}.metadata"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{COMMIT}\n{etag}\n{time.time() if at is None else at}\n")
    return path


def content_of(root: Path, folder: Path) -> str | None:
    identity, read = resolved(root, small_plan(folder))
    assert read == 0
    return identity.content


def cache_of(folder: Path, tmp_path: Path) -> Path:
    """The same files in the form of the Hub's cache; returns the snapshot."""
    snapshot = tmp_path / "hub/models--org--name/snapshots" / COMMIT
    blobs = snapshot.parents[1] / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for file in folder.iterdir():
        if file.is_file():
            blob = blobs / sha256(file)
            shutil.copyfile(file, blob)
            (snapshot / file.name).symlink_to(Path("../../blobs", blob.name))
    return snapshot


def test_downloads_of_the_hubs_own_client_have_the_content_of_the_repository(
    hub: Hub, listed: str, root: Path, tmp_path: Path
) -> None:
    python, local = hub_client.python(), tmp_path / "local"
    calls = [
        ("snapshot_download", {"repo_id": REPOSITORY, "local_dir": str(local)}),
        ("snapshot_download", {"repo_id": REPOSITORY}),
    ]
    answers = run_client(python, hub.endpoint, tmp_path / "home", calls)
    snapshot = Path(answers[1]["result"])
    assert snapshot.is_relative_to(tmp_path / "home")
    assert (content_of(root, local), content_of(root, snapshot)) == (listed, listed)
    moved = tmp_path / "moved"
    shutil.copytree(local, moved)  # with its times
    elsewhere = tmp_path / "elsewhere"  # a volume that has seen none of them
    elsewhere.mkdir()
    assert content_of(elsewhere, moved) == listed
    copied = tmp_path / "copied"
    shutil.copytree(snapshot.parents[1], copied, symlinks=True)
    assert content_of(elsewhere, copied / "snapshots" / snapshot.name) == listed


def test_a_folder_with_records_and_a_cache_have_the_content_of_the_repository(
    listed: str, root: Path, folder: Path, tmp_path: Path
) -> None:
    assert content_of(root, folder) == listed
    assert content_of(root, cache_of(folder, tmp_path)) == listed
    checkpoint = open_checkpoint(folder)
    assert recorded_content(root, checkpoint, small_plan(folder).reads) == listed


def rewritten(file: Path) -> None:
    os.utime(file, (time.time() + 5, time.time() + 5))


def replaced_by_an_older_one(file: Path) -> None:
    other = file.with_name("other")
    shutil.copyfile(file, other)
    os.utime(other, (1e9, 1e9))
    other.replace(file)
    record(file, sha256(file), time.time() - 2)  # as it was when the download had ended


def without_record(file: Path) -> None:
    record(file, "").unlink()


@pytest.mark.parametrize(
    "change", [rewritten, replaced_by_an_older_one, without_record], ids=lambda each: each.__name__
)
def test_one_file_whose_record_does_not_hold_is_enough_for_a_name_of_its_own(
    listed: str, root: Path, folder: Path, change: Callable[[Path], None]
) -> None:
    change(weights(folder)[1])
    content = content_of(root, folder)
    assert content == open_checkpoint(folder).fingerprint != listed


@pytest.mark.parametrize(
    "lines",
    ["", "c\n", "c\nnot a digest\n9e9\n", f"c\n{'a' * 64}\nnever\n", f"c\n{'a' * 64}\nnan\n", f"c\n{'a' * 64}\ninf\n"],
)
def test_what_is_no_record_is_ignored(root: Path, folder: Path, lines: str) -> None:
    record(weights(folder)[0], "").write_text(lines)
    assert downloaded_content(open_checkpoint(folder)) is None


def test_other_weights_under_the_same_header_have_another_content(listed: str, root: Path, folder: Path) -> None:
    record(weights(folder)[0], "a" * 64)
    assert content_of(root, folder) not in (None, listed, open_checkpoint(folder).fingerprint)


def test_a_blob_that_was_written_after_it_was_linked_has_no_digest(
    listed: str, root: Path, folder: Path, tmp_path: Path
) -> None:
    snapshot = cache_of(folder, tmp_path)
    rewritten(weights(snapshot)[0].resolve())
    assert content_of(root, snapshot) != listed


def test_a_link_elsewhere_and_a_folder_that_is_no_snapshot_have_no_digest(folder: Path, tmp_path: Path) -> None:
    snapshot = cache_of(folder, tmp_path)
    assert downloaded_content(open_checkpoint(snapshot))
    file = weights(snapshot)[0]
    target = file.resolve()
    file.unlink()
    file.symlink_to(target)
    assert downloaded_content(open_checkpoint(snapshot)) is None
    file.unlink()
    file.symlink_to(Path("../../blobs", target.name))
    assert downloaded_content(open_checkpoint(snapshot))
    assert downloaded_content(open_checkpoint(snapshot.rename(snapshot.with_name("main")))) is None


def test_a_folder_that_is_known_keeps_its_name(listed: str, root: Path, folder: Path) -> None:
    checkpoint = open_checkpoint(folder)
    SourceRecords(root).note(checkpoint, checkpoint.fingerprint, file_stats(checkpoint))
    assert content_of(root, folder) == checkpoint.fingerprint != listed


def test_a_change_that_kept_size_and_time_is_noticed_in_spite_of_the_record(
    listed: str, root: Path, folder: Path
) -> None:
    assert content_of(root, folder) == listed
    file, before = weights(folder)[0], weights(folder)[0].stat()
    change_last_byte(file)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert content_of(root, folder) != listed


def test_a_sealed_set_of_the_folder_stays_found_without_its_record(
    listed: str, root: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As an earlier version named it."""
    with monkeypatch.context() as earlier:
        earlier.setattr("neuronmodel_worker.prepare.identify.downloaded_content", lambda checkpoint: None)
        first = shard(root, small_plan(folder))
    assert first.content == first.checkpoint.fingerprint
    shutil.rmtree(root / "sources")
    assert content_of(root, folder) == first.content != listed


def test_a_set_sealed_from_the_repository_is_found_by_a_folder_without_a_read(
    hub: Hub, listed: str, root: Path, folder: Path
) -> None:
    assert shard(root, plan_of_hub(hub)).content == listed
    assert content_of(root, folder) == listed


def test_a_set_of_other_files_is_compared_first_and_then_the_records_name_it(
    listed: str, root: Path, source: Path, folder: Path
) -> None:
    """The set is of a folder without records: only reading tells whether it is the same."""
    same: Identity = shard(root, small_plan(source))
    assert same.content != listed
    identity, read = resolved(root, small_plan(folder))
    assert (identity.content, read) == (same.content, small_plan(folder).source_bytes)


def test_where_a_comparison_finds_other_weights_the_records_name_the_folder(
    listed: str, root: Path, source: Path, folder: Path, tmp_path: Path
) -> None:
    other = tmp_path / "tuned"
    shutil.copytree(source, other)
    change_last_byte(weights(other)[0])
    shard(root, small_plan(other))
    identity, _ = resolved(root, small_plan(folder))
    assert identity.content == listed
    assert identity.differs


def test_a_file_that_was_touched_later_is_compared_with_the_set_of_the_records(
    listed: str, root: Path, folder: Path
) -> None:
    assert shard(root, small_plan(folder)).content == listed
    touch(weights(folder)[0])
    rewritten(weights(folder)[0])
    identity, read = resolved(root, small_plan(folder))
    assert identity.content == listed
    assert read > 0


def test_a_record_that_was_renewed_without_a_look_at_the_file_names_nothing(
    listed: str, root: Path, folder: Path
) -> None:
    """huggingface_hub renews a record when the revision moved and the ETag did not; another file may lie there by then,
    put there with its times kept."""
    assert content_of(root, folder) == listed
    file = weights(folder)[0]
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    hours_ago = time.time() - 7200
    os.utime(file, (hours_ago, hours_ago))
    record(file, sha256(folder.parent / "source" / file.name))
    assert content_of(root, folder) != listed
