"""The tier's part of a scratch volume: room, holders, writers that died."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from neuronmodel_worker.scratch_cache import Tier, TierError
from neuronmodel_worker.scratch_cache.volume import PendingCopy
from tests.volumes import volume_in_memory

MIB = 1 << 20


def begun(tier: Tier, key: str, nbytes: int = MIB) -> PendingCopy:
    writing = tier.begin("shards", key, nbytes)
    assert writing
    return writing


def put(tier: Tier, key: str, nbytes: int = MIB, used_at: float | None = None) -> None:
    """A copy that a worker made which is gone."""
    writing = begun(tier, key, nbytes)
    (writing.directory / "weights").mkdir()
    (writing.directory / "weights" / "file").write_bytes(os.urandom(nbytes))
    writing.publish()
    tier.close()
    if used_at:
        os.utime(tier.root / "locks" / f"shards-{key}.users", (used_at, used_at))


def keys(tier: Tier) -> set[str]:
    return {path.name for path in (tier.root / "shards").iterdir()}


def test_a_copy_is_found_by_its_key_once_it_is_whole(tmp_path: Path) -> None:
    tier = Tier(tmp_path)
    assert tier.use("shards", "a") is None
    writing = begun(tier, "a")
    assert tier.use("shards", "a") is None
    (writing.directory / "file").write_bytes(b"x")
    writing.publish()
    found = Tier(tmp_path).use("shards", "a")
    assert found
    assert (found / "file").read_bytes() == b"x"
    assert Tier(tmp_path).use("source", "a") is None


def test_the_longest_unused_copies_go_for_a_new_one(tmp_path: Path) -> None:
    with volume_in_memory(tmp_path / "scratch", 20 * MIB) as scratch:
        tier = Tier(scratch)
        put(tier, "old", 5 * MIB, used_at=1.0)
        put(tier, "older", 5 * MIB, used_at=0.5)
        put(tier, "used", 5 * MIB, used_at=9.0)
        begun(tier, "new", 12 * MIB).abandon()
        assert keys(tier) == {"used"}


def test_a_copy_that_a_living_worker_uses_stays(tmp_path: Path) -> None:
    with volume_in_memory(tmp_path / "scratch", 20 * MIB) as scratch:
        tier, other = Tier(scratch), Tier(scratch)
        put(tier, "mine", 8 * MIB, used_at=1.0)
        assert other.use("shards", "mine")
        with pytest.raises(TierError, match=r"it takes 12,582,912 bytes, \d[\d,]* may be written") as error:
            tier.begin("shards", "new", 12 * MIB)
        assert error.value.reason == "ScratchTierFull"
        assert keys(tier) == {"mine"}
        other.close()
        begun(tier, "new", 12 * MIB).abandon()
        assert keys(tier) == set()


def test_the_pods_own_limit_is_kept(tmp_path: Path) -> None:
    tier = Tier(tmp_path, limit_bytes=20 * MIB)
    (tmp_path / "compilers").write_bytes(os.urandom(6 * MIB))
    put(tier, "old", 6 * MIB)
    begun(tier, "small", 4 * MIB).abandon()
    assert keys(tier) == {"old"}
    begun(tier, "bigger", 10 * MIB).abandon()
    assert keys(tier) == set()
    with pytest.raises(TierError, match="may be written"):
        tier.begin("shards", "biggest", 13 * MIB)


def test_one_worker_makes_a_copy_at_a_time(tmp_path: Path) -> None:
    tier, other = Tier(tmp_path), Tier(tmp_path)
    writing = begun(tier, "a")
    assert other.begin("shards", "a", MIB) is None
    begun(other, "b").abandon()
    assert writing.directory.is_dir()
    writing.abandon()
    begun(other, "a").abandon()


def test_what_a_killed_writer_left_goes_and_counts_for_nothing(tmp_path: Path) -> None:
    program = (
        "import os, signal, sys; from pathlib import Path; from neuronmodel_worker.scratch_cache import Tier\n"
        "writing = Tier(Path(sys.argv[1])).begin('shards', 'a', 1 << 20)\n"
        "(writing.directory / 'file').write_bytes(b'half'); os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=False).returncode == -9
    tier = Tier(tmp_path)
    assert (tmp_path / "tier/writing/shards-a/file").exists()
    assert tier.use("shards", "a") is None
    begun(tier, "b").abandon()
    assert not (tmp_path / "tier/writing/shards-a").exists()


def test_a_copy_that_is_dropped_can_be_made_again(tmp_path: Path) -> None:
    tier = Tier(tmp_path)
    put(tier, "a")
    assert tier.use("shards", "a")
    tier.drop("shards", "a")
    assert tier.use("shards", "a") is None
    put(tier, "a")
    assert tier.use("shards", "a")


def test_a_tier_that_cannot_be_written_is_noted_and_no_crash(tmp_path: Path) -> None:
    (tmp_path / "tier").write_text("a file has taken its place")
    with pytest.raises(TierError) as error:
        Tier(tmp_path).begin("shards", "a", MIB)
    assert error.value.reason == "ScratchTierUnwritable"
