"""What is the same content, and what it costs to tell."""

import os
import shutil
from pathlib import Path

import pytest

from neuronmodel_worker.checkpoint import open_checkpoint
from neuronmodel_worker.failures import SourceChanged
from neuronmodel_worker.plan.streamed import StreamedPlan
from neuronmodel_worker.prepare.identify import Identity, identify
from neuronmodel_worker.store import SHARDS, Store, shards_inputs, shards_key
from neuronmodel_worker.store.source_records import (
    MAX_RECORDS,
    OUTLINE,
    SOURCE_FILE,
    SourceRecords,
    file_stats,
    outline,
    recorded_content,
)
from neuronmodel_worker.stream import WEIGHTS, ContentDigests, FileSink, Transferred, run
from tests.unit.worker.sharding import small_plan, small_source

FILES = 3


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return small_source(tmp_path / "source", files=FILES)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "artifacts").mkdir()
    return tmp_path / "artifacts"


def weights(source: Path) -> list[Path]:
    return sorted(source.glob("*.safetensors"))


def touch(path: Path) -> None:
    found = path.stat()
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns + 10**9))


def change_last_byte(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        last = file.read(1)[0]
        file.seek(-1, os.SEEK_END)
        file.write(bytes([last ^ 1]))


def shard(root: Path, plan: StreamedPlan) -> Identity:
    """As prepare does: identify, note, shard, seal the digests with the shards."""
    identity = identify(root, plan).resolved()
    identity.note()
    digests = ContentDigests()
    assert identity.content
    key = shards_key(identity.content, plan.layout_inputs())
    with Store(root).stage(SHARDS, key) as staging:
        written = run(plan, FileSink(staging.directory / WEIGHTS), observer=digests)
        staging.record(written.files, under=WEIGHTS)
        (staging.directory / SOURCE_FILE).write_bytes(identity.document(digests.pieces()))
        inputs = shards_inputs(identity.content, plan.layout_inputs())
        staging.seal({"inputs": inputs, OUTLINE: outline(plan.checkpoint)})
    return identity


def resolved(root: Path, plan: StreamedPlan) -> tuple[Identity, int]:
    """The identity, noted, and how many bytes of the source were read for it."""
    read = [0]

    def progress(so_far: Transferred) -> None:
        read[0] = so_far.bytes_read

    identity = identify(root, plan).resolved(progress)
    identity.note()
    return identity, read[0]


def nbytes_in(plan: StreamedPlan, *files: Path) -> int:
    names = {file.name for file in files}
    return sum(read.source.nbytes for read in plan.reads.values() if read.source.file.path.name in names)


def test_what_was_never_seen_is_named_after_its_fingerprint_without_a_read(root: Path, source: Path) -> None:
    plan = small_plan(source)
    identity, read = resolved(root, plan)
    assert (identity.content, read) == (plan.checkpoint.fingerprint, 0)
    assert recorded_content(root, plan.checkpoint, plan.reads) == identity.content


def test_a_touched_file_is_compared_once_and_is_the_same(root: Path, source: Path) -> None:
    first = shard(root, small_plan(source))
    touch(weights(source)[1])
    plan = small_plan(source)
    assert plan.checkpoint.fingerprint != first.content
    assert recorded_content(root, plan.checkpoint, plan.reads) is None
    assert resolved(root, plan)[0].content == first.content
    again, read = resolved(root, plan)
    assert (again.content, read) == (first.content, 0)
    assert recorded_content(root, plan.checkpoint, plan.reads) == first.content


def test_only_files_that_look_different_are_read(root: Path, source: Path) -> None:
    shard(root, small_plan(source))
    touch(weights(source)[1])
    plan = small_plan(source)
    assert resolved(root, plan)[1] == nbytes_in(plan, weights(source)[1])
    touch(weights(source)[2])
    plan = small_plan(source)
    assert resolved(root, plan)[1] == nbytes_in(plan, weights(source)[2])


def test_a_copy_is_the_same(root: Path, source: Path, tmp_path: Path) -> None:
    first = shard(root, small_plan(source))
    shutil.copytree(source, tmp_path / "copy", copy_function=shutil.copyfile)
    plan = small_plan(tmp_path / "copy")
    identity, read = resolved(root, plan)
    assert (identity.content, read) == (first.content, plan.source_bytes)


def test_two_copies_with_the_same_times_are_each_compared_once(root: Path, source: Path, tmp_path: Path) -> None:
    first = shard(root, small_plan(source))
    shutil.copytree(source, tmp_path / "copy")  # times are copied, so the fingerprint is the same
    copy = small_plan(tmp_path / "copy")
    assert copy.checkpoint.fingerprint == first.checkpoint.fingerprint
    identity, read = resolved(root, copy)
    assert (identity.content, read) == (first.content, copy.source_bytes)
    for plan in (small_plan(source), small_plan(tmp_path / "copy")):
        assert resolved(root, plan)[1] == 0


def test_another_configuration_of_the_same_weights_costs_no_read(root: Path, source: Path) -> None:
    first = shard(root, small_plan(source))
    config = source / "config.json"
    config.write_text(config.read_text().replace("{", '{"note": 1,', 1))
    plan = small_plan(source)
    assert plan.checkpoint.fingerprint != first.checkpoint.fingerprint
    identity, read = resolved(root, plan)
    assert (identity.content, read) == (first.content, 0)


def test_a_changed_weight_is_different_content_and_reported_by_name(root: Path, source: Path) -> None:
    first = shard(root, small_plan(source))
    file = weights(source)[1]
    change_last_byte(file)
    plan = small_plan(source)
    identity, _ = resolved(root, plan)
    last = max((t for t in plan.checkpoint.tensors.values() if t.file.path == file), key=lambda t: t.offset)
    assert identity.content not in (None, first.content)
    assert identity.differs == f"the content of the tensor {last.name} of {file.name} differs"


def test_a_changed_weight_is_noticed_though_its_time_was_put_back(root: Path, source: Path) -> None:
    first = shard(root, small_plan(source))
    file, before = weights(source)[0], weights(source)[0].stat()
    change_last_byte(file)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    plan = small_plan(source)
    assert plan.checkpoint.fingerprint == first.checkpoint.fingerprint
    identity, _ = resolved(root, plan)
    assert identity.content != first.content
    assert resolved(root, plan) == (identity.__class__(**{**vars(identity), "differs": None}), 0)


def test_without_digests_the_same_time_on_other_files_is_no_proof(root: Path, source: Path) -> None:
    """As after a run that was killed: its record is there, its shards are not."""
    first, _ = resolved(root, small_plan(source))
    file, before = weights(source)[0], weights(source)[0].stat()
    change_last_byte(file)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert resolved(root, small_plan(source))[0].content != first.content


def test_weights_that_are_changed_back_are_what_they_were(root: Path, source: Path) -> None:
    first = shard(root, small_plan(source))
    change_last_byte(weights(source)[0])
    second = shard(root, small_plan(source))
    change_last_byte(weights(source)[0])
    third, _ = resolved(root, small_plan(source))
    assert first.content == third.content != second.content


def test_other_flags_know_the_content_too(root: Path, source: Path) -> None:
    first = shard(root, small_plan(source))
    touch(weights(source)[0])
    identity, _ = resolved(root, small_plan(source, tp_degree=2, fused_qkv=True))
    assert identity.content == first.content


def test_what_was_compared_by_some_tensors_is_not_known_by_more(root: Path, source: Path) -> None:
    """A content that is known under another fingerprint is known as far as it was compared."""
    plan = small_plan(source)
    first = shard(root, plan)
    touch(weights(source)[0])
    checkpoint = open_checkpoint(source)
    some = sorted(plan.reads)[:-1]
    SourceRecords(root).note(checkpoint, first.content or "", file_stats(checkpoint), some)
    assert recorded_content(root, checkpoint, some) == first.content
    assert recorded_content(root, checkpoint, plan.reads) is None
    assert resolved(root, small_plan(source))[0].content == first.content
    assert recorded_content(root, checkpoint, plan.reads) == first.content
    assert recorded_content(root, checkpoint, some) == first.content


@pytest.mark.parametrize("damage", ["record", "digests", "manifest"])
def test_hints_that_are_damaged_are_no_hints(root: Path, source: Path, damage: str) -> None:
    first = shard(root, small_plan(source))
    path = {
        "record": SourceRecords(root).path(first.checkpoint.fingerprint),
        "digests": next(root.glob(f"shards/*/{SOURCE_FILE}")),
        "manifest": next(root.glob("shards/*/manifest.json")),
    }[damage]
    path.write_bytes(path.read_bytes()[:-20])
    touch(weights(source)[0])
    identity, _ = resolved(root, small_plan(source))
    assert (identity.content == first.content) == (damage == "record")


def test_digests_with_a_changed_byte_are_not_believed(root: Path, source: Path) -> None:
    first = shard(root, small_plan(source))
    path = next(root.glob(f"shards/*/{SOURCE_FILE}"))
    raw = path.read_bytes()
    path.write_bytes(raw.replace(b'"content":"', b'"content":"0', 1))
    touch(weights(source)[0])
    assert resolved(root, small_plan(source))[0].content != f"0{first.content}"


def test_a_source_that_changes_while_it_is_compared_is_reported(root: Path, source: Path) -> None:
    shard(root, small_plan(source))
    touch(weights(source)[0])
    identity = identify(root, small_plan(source))
    assert identity.content is None
    with pytest.raises(SourceChanged):
        identity.resolved(lambda so_far: weights(source)[0].chmod(0o600))


def test_two_who_look_at_a_new_source_at_once_name_its_content_alike(root: Path, source: Path) -> None:
    plan = small_plan(source)
    stats = file_stats(plan.checkpoint)
    one = Identity(plan.checkpoint, stats, tuple(plan.reads), SourceRecords(root))
    other = identify(root, plan).resolved()
    other.note()
    assert one.resolved().content == other.content


def test_records_do_not_pile_up(root: Path, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("neuronmodel_worker.store.source_records.MAX_RECORDS", 3)
    for _ in range(6):
        touch(weights(source)[0])
        resolved(root, small_plan(source))
    assert len(list((root / "sources").glob("*.json"))) == 3
    assert recorded_content(root, open_checkpoint(source), small_plan(source).reads)
    assert MAX_RECORDS > 100
