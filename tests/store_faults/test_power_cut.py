"""The power is cut before any change to the store: what was not synced by then is lost.

Still there is no wrong set, what `prepare` reported to be there is there, and the next run puts everything right.
"""

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from neuronmodel_api.report import Result
from tests.store_faults.expected import check_sets, remains
from tests.store_faults.forking import ForkServer
from tests.store_faults.images import Photographer, formatted, mounted
from tests.store_faults.jobs import Model, prepare
from tests.store_faults.test_cuts import keys


def three_files(root: Path) -> None:
    """One is synced with its name, one is synced before it is renamed, one is not synced at all."""
    for name in ("synced", "renamed", "lost"):
        with (root / name).open("wb") as file:
            file.write(b"content")
            file.flush()
            if name != "lost":
                os.fsync(file.fileno())
    (root / "renamed").rename(root / "other")
    (root / "end").mkdir()


@pytest.fixture
def image(tmp_path: Path) -> Path:
    (tmp_path / "album").mkdir()
    return formatted(tmp_path / "image")


def test_a_picture_lacks_what_was_not_synced(image: Path, tmp_path: Path, server: ForkServer) -> None:
    with mounted(image, tmp_path / "volume") as volume:
        server.follow(partial(three_files, volume), volume, Photographer(image, tmp_path / "album"))
        picture = max((tmp_path / "album").iterdir())
    with mounted(picture, tmp_path / "after") as after:
        found = {path.name: path.read_bytes() for path in after.iterdir() if path.is_file()}
    assert found.pop("lost", b"") == b""
    assert found == {"synced": b"content", "renamed": b"content"}


def test_a_power_cut_before_any_change_leaves_no_wrong_set(
    image: Path, source: Path, tmp_path: Path, servers: list[ForkServer]
) -> None:
    shards = keys(servers[0], [Model(tmp_path, source)], tmp_path / "keys")
    (key,) = shards
    with mounted(image, tmp_path / "volume") as volume:
        model = Model(volume / "store", source)
        outcome = servers[0].follow(partial(prepare, model), model.root, Photographer(image, tmp_path / "album"))
        last = Photographer(image, tmp_path / "album").take(len(outcome.changes) + 1)
    pictures = sorted((tmp_path / "album").iterdir())
    assert len(pictures) > 20

    def restart(server: ForkServer, picture: Path) -> None:
        with mounted(picture, tmp_path / f"after-{picture.name}") as after:
            mine = replace(model, root=after / "store")
            sets, owners = check_sets(mine.root, shards), list((mine.root / "refs").glob(f"*/{model.owner}"))
            if picture == last:
                assert (len(sets), len(owners)) == (2, 2)
            assert isinstance(server.run(partial(prepare, mine)), Result)
            assert ("shards", key) in check_sets(mine.root, shards)
            assert remains(mine.root) == []
        picture.unlink()

    def every(first: int) -> None:
        for picture in pictures[first :: len(servers)]:
            restart(servers[first], picture)

    with ThreadPoolExecutor(len(servers)) as pool:
        assert len(list(pool.map(every, range(len(servers))))) == len(servers)
