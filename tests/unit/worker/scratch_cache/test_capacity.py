"""Which copies go for a new one, as a pure function."""

from neuronmodel_worker.scratch_cache.capacity import CachedCopy, VolumeSpace, evictions


def kept(key: str, nbytes: int, used_at: float, in_use: bool = False) -> CachedCopy:
    return CachedCopy("shards", key, nbytes, used_at, in_use)


def test_a_tenth_of_the_volume_is_left_to_others() -> None:
    assert VolumeSpace(total_bytes=1000, free_bytes=400).writable_bytes == 300
    assert VolumeSpace(total_bytes=1000, free_bytes=60).writable_bytes == -40


def test_a_limit_counts_what_is_written_already_and_leaves_a_tenth_too() -> None:
    assert VolumeSpace(10_000, 9_000, limit_bytes=500, used_bytes=200).writable_bytes == 250
    assert VolumeSpace(10_000, 1_100, limit_bytes=5_000, used_bytes=0).writable_bytes == 100


def test_what_fits_sends_nothing_away() -> None:
    assert evictions(VolumeSpace(1000, 400), 300, [kept("a", 100, 1.0)]) == []


def test_the_longest_unused_go_first_and_no_more_than_needed() -> None:
    copies = [kept("new", 100, 3.0), kept("old", 100, 1.0), kept("middle", 100, 2.0)]
    going = evictions(VolumeSpace(1000, 250), 300, copies)
    assert going is not None
    assert [copy.key for copy in going] == ["old", "middle"]


def test_what_somebody_uses_stays() -> None:
    copies = [kept("old", 100, 1.0, in_use=True), kept("new", 100, 3.0)]
    going = evictions(VolumeSpace(1000, 200), 200, copies)
    assert going is not None
    assert [copy.key for copy in going] == ["new"]


def test_where_all_of_them_would_not_do_none_goes() -> None:
    assert evictions(VolumeSpace(1000, 200), 300, [kept("a", 100, 1.0), kept("b", 500, 2.0, in_use=True)]) is None
