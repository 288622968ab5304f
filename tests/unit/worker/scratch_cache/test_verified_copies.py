"""A copy of a repository is compared with what the repository lists: once, and while the worker is idle."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from neuronmodel_worker.checkpoint import Checkpoint, open_checkpoint
from neuronmodel_worker.scratch_cache import Tier
from neuronmodel_worker.scratch_cache.checkpoint_copies import VERIFIED, SourceCopy, copied_source, verify_copy
from neuronmodel_worker.scratch_cache.errors import TierUnlike
from neuronmodel_worker.serve.background import ShuttingDown
from neuronmodel_worker.stream import ContentDigests
from tests.standins.hub import Hub
from tests.unit.worker.scratch_cache.test_start import flip
from tests.unit.worker.sharding import small_source
from tests.unit.worker.sources.hubs import REPOSITORY, opened, wait_little


@pytest.fixture(autouse=True)
def _waiting_little(monkeypatch: pytest.MonkeyPatch) -> None:
    wait_little(monkeypatch)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return small_source(tmp_path / "source", files=2)


@pytest.fixture
def checkpoint(source: Path) -> Iterator[Checkpoint]:
    with Hub() as hub:
        hub.add_repository(REPOSITORY, source)
        yield open_checkpoint(opened(hub))


@pytest.fixture
def tier(tmp_path: Path) -> Tier:
    return Tier(tmp_path / "scratch")


def copied(tier: Tier, checkpoint: Checkpoint) -> Path:
    copy = SourceCopy.begin(tier, checkpoint, ContentDigests())
    assert copy
    copy.finish(lambda: None)
    return tier.path("source", checkpoint.fingerprint)


def pieces_read(tier: Tier, checkpoint: Checkpoint) -> int:
    waits: list[None] = []
    verify_copy(tier, checkpoint, lambda: waits.append(None))
    return len(waits)


def last_file(directory: Path) -> Path:
    return sorted(directory.glob("*.safetensors"))[-1]


def test_a_copy_is_read_once_and_then_marked(tier: Tier, checkpoint: Checkpoint) -> None:
    directory = copied(tier, checkpoint)
    assert pieces_read(tier, checkpoint) > 0
    assert (directory / VERIFIED).exists()
    assert pieces_read(tier, checkpoint) == 0
    assert pieces_read(Tier(tier.root.parent), checkpoint) == 0
    found = copied_source(tier, checkpoint)
    assert found
    assert pieces_read(tier, found.checkpoint) == 0


def flipped(file: Path) -> None:
    flip(file, file.stat().st_size - 9)


def cut(file: Path) -> None:
    os.truncate(file, file.stat().st_size - 1)


@pytest.mark.parametrize("damage", [flipped, cut])
@pytest.mark.parametrize("is_marked", [False, True])
def test_a_copy_of_another_content_is_removed(
    tier: Tier, checkpoint: Checkpoint, damage: Callable[[Path], None], is_marked: bool
) -> None:
    """Also where it was written after it was compared."""
    directory = copied(tier, checkpoint)
    if is_marked:
        pieces_read(tier, checkpoint)
    damage(last_file(directory))
    with pytest.raises(TierUnlike, match="is not what the source lists") as unlike:
        pieces_read(tier, checkpoint)
    assert unlike.value.reason == "ScratchTierDamaged"
    assert not directory.exists()


def test_a_worker_that_ends_meanwhile_leaves_the_copy_unmarked(tier: Tier, checkpoint: Checkpoint) -> None:
    directory = copied(tier, checkpoint)

    def stop() -> None:
        raise ShuttingDown

    with pytest.raises(ShuttingDown):
        verify_copy(tier, checkpoint, stop)
    assert directory.is_dir()
    assert not (directory / VERIFIED).exists()
    assert pieces_read(tier, checkpoint) > 0


def test_a_mark_that_is_broken_is_none(tier: Tier, checkpoint: Checkpoint) -> None:
    directory = copied(tier, checkpoint)
    (directory / VERIFIED).write_text("{")
    assert pieces_read(tier, checkpoint) > 0
    assert pieces_read(tier, checkpoint) == 0


def test_what_has_no_listed_digest_is_not_read(tier: Tier, source: Path) -> None:
    checkpoint = open_checkpoint(source)
    directory = copied(tier, checkpoint)
    assert pieces_read(tier, checkpoint) == 0
    assert not (directory / VERIFIED).exists()


def test_without_a_copy_there_is_nothing_to_compare(tier: Tier, checkpoint: Checkpoint) -> None:
    assert pieces_read(tier, checkpoint) == 0
