"""The disk is full at any call that could ask it for room: a failure that says so with both figures, nothing left but
rank files that are sealed, and the right set once there is room."""

import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from neuronmodel_api.report import Result
from tests.store_faults.calls import GROWS
from tests.store_faults.expected import check_sets, remains
from tests.store_faults.forking import ForkServer
from tests.store_faults.jobs import Failed, Model, prepare, unsynced
from tests.store_faults.test_cuts import keys, one_after_the_other
from tests.store_faults.traced import FullFrom


@pytest.mark.parametrize("once", [False, True], ids=["from_then_on", "for_a_moment"])
def test_a_disk_may_be_full_at_any_call(once: bool, servers: list[ForkServer], source: Path, tmp_path: Path) -> None:
    model = Model(tmp_path, source)
    shards = keys(servers[0], [model], tmp_path / "keys")
    (key,) = shards

    def fill(server: ForkServer, number: int) -> bool:
        (root := tmp_path / f"full-{number}").mkdir()
        mine = replace(model, root=root)
        outcome = server.follow(partial(prepare, mine), root, FullFrom(number, once))
        grows = [call for call in outcome.changes if call.name in GROWS]
        asked = len(grows) >= number
        check_sets(root, shards)
        refused = grows[number - 1].describe(root) if asked else "nothing"
        match outcome.value:
            case Failed(reason, message, needed, free):
                assert (asked, reason) == (True, "ArtifactsVolumeFull"), (refused, message)
                assert (needed is not None, free is not None) == (True, True), (refused, message)
                assert f"{needed:,} bytes are needed" in message
            case result:
                assert isinstance(result, Result)
                assert not asked or once, refused
        assert remains(root) == [], refused
        assert isinstance(server.run(partial(unsynced, prepare, mine)), Result)
        assert ("shards", key) in check_sets(root, shards)
        assert remains(root) == []
        shutil.rmtree(root)
        return asked

    assert one_after_the_other(servers, fill) > 50
