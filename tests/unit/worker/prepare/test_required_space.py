"""prepare tells what a start takes, and ends where the machine does not have it, before anything is built."""

from pathlib import Path
from typing import Any

import pytest

from neuronmodel_api import exits
from neuronmodel_api.config import Engine, Strategy
from neuronmodel_api.report import Sizing
from neuronmodel_worker.io import probe
from tests.unit.worker.workers import Ended, Place


@pytest.fixture(autouse=True)
def quick_probes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "BLOCK_BYTES", 64 << 10)
    monkeypatch.setattr(probe, "KEPT_MAX_BYTES", 128 << 10)


def prepared(place: Place, **changes: Any) -> tuple[Strategy, Sizing]:
    result = place.prepare(**changes).result
    assert result is not None
    assert result.strategy is not None
    assert result.sizing is not None
    return result.strategy, result.sizing


def sized(place: Place, **changes: Any) -> Sizing:
    return prepared(place, **changes)[1]


def on_neuron(place: Place, **changes: Any) -> Ended:
    fields = {"tp_degree": 6, "torch_dtype": "bfloat16", "seq_len": 128}
    return place.run("prepare", **{"engine": Engine.NEURON, "neuronConfig": fields, **changes})


def reason(ended: Ended) -> str:
    assert ended.report.failure is not None
    return ended.report.failure.reason


@pytest.mark.parametrize("strategy", ["ShardOnCompile", "ShardOnLoad", "Auto"])
def test_the_result_tells_what_a_start_takes(place: Place, strategy: str) -> None:
    in_force, sizing = prepared(place, strategy=strategy)
    assert sizing.host_memory_bytes > 3 * (sizing.rank_bytes + sizing.cache_bytes)
    assert (sizing.rank_bytes > 0, sizing.core_bytes, sizing.estimated) == (True, None, False)
    assert sized(place, strategy=in_force) == sizing  # also where nothing is built


def test_a_longer_sequence_takes_a_larger_cache(place: Place) -> None:
    short, long = (sized(place, neuronConfig={"tp_degree": 3, "seq_len": length}) for length in (128, 256))
    assert long.cache_bytes == 2 * short.cache_bytes


@pytest.mark.parametrize("strategy", ["ShardOnCompile", "ShardOnLoad", "Auto"])
def test_what_does_not_fit_ends_it_before_anything_is_built(place: Place, strategy: str) -> None:
    ended = on_neuron(place, strategy=strategy, instanceType="trn2.3xlarge")
    assert (ended.code, reason(ended)) == (exits.BAD_INPUT, "DoesNotFit")
    assert ended.report.failure is not None
    assert ended.report.failure.final
    assert "6 ranks need as many logical cores, and it has 4" in ended.report.failure.message
    assert not list(Path(place.artifacts).glob("**/*"))


@pytest.mark.parametrize("machine", ["trn2.48xlarge", "trn9.large", ""])
def test_a_machine_that_has_it_and_one_that_is_not_known_refuse_nothing(place: Place, machine: str) -> None:
    assert reason(on_neuron(place, instanceType=machine)) != "DoesNotFit"


def test_a_cpu_worker_stays_within_what_it_was_sized_for(place: Place) -> None:
    sizing = sized(place)
    with place.serving() as worker:
        lines = Path(f"/proc/{worker.process.pid}/status").read_text().splitlines()
        anonymous = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon:"))
    assert anonymous < sizing.host_memory_bytes
