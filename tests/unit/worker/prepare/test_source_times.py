"""Weights that were changed while their modification times stayed, as archives and image layers unpack them."""

import os
import signal
from pathlib import Path

from neuronmodel_api.report import Report, SealingState
from tests.unit.worker.prepare.test_preparation import change_a_weight, weights_of
from tests.unit.worker.workers import Place, returned


def change_and_put_the_time_back(place: Place) -> None:
    before = weights_of(place).stat()
    change_a_weight(place)
    os.utime(weights_of(place), ns=(before.st_atime_ns, before.st_mtime_ns))


def copies(place: Place) -> list[Path]:
    return list((place.root / "scratch/tier/source").glob("*"))


def loaded(place: Place) -> Report:
    """What a start says that keeps a copy of the source on its scratch volume, when it has one."""
    result = place.prepare(strategy="ShardOnLoad").result
    assert result is not None
    changes = {"strategy": "ShardOnLoad", "scratchTier": True, **returned(result.to_json())}
    with place.started("serve", **changes) as worker:
        worker.until_ready()
        worker.until(lambda: copies(place))
        worker.process.send_signal(signal.SIGTERM)
        return worker.wait().report


def test_a_copy_of_other_weights_is_not_loaded(place: Place) -> None:
    assert loaded(place).tier == "Source"
    assert loaded(place).tier == "Scratch"
    change_and_put_the_time_back(place)
    report = loaded(place)
    assert report.tier == "Source"
    assert [note.reason for note in report.notes] == ["ScratchTierStale"]
    assert "written or replaced since they were copied" in report.notes[0].message


def test_weights_that_prepare_did_not_see_are_not_sealed_as_those_that_it_saw(place: Place) -> None:
    behind = {"strategy": "ShardOnCompile", "seal": "Behind"}
    result = place.prepare(**behind).result
    assert result is not None
    change_and_put_the_time_back(place)
    with place.started("serve", **behind, **returned(result.to_json())) as worker:
        worker.until_ready()
        worker.until(lambda: (found := worker.status().sealing) and found.state is SealingState.FAILED)
        sealing = worker.status().sealing
    assert sealing
    assert (
        "model.safetensors changed while it was in use: it was written or replaced after `prepare`" in sealing.message
    )
    assert not any((place.artifacts / "shards").glob("*"))
