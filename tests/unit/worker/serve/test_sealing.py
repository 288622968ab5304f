"""Ready first, sealed behind: the model answers, and the next start finds shards."""

import re
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from neuronmodel_api.config import WorkerConfig
from neuronmodel_api.report import Report, SealingState, Stage
from neuronmodel_worker.artifact_keys import wanted_artifacts
from neuronmodel_worker.checkpoint import open_checkpoint
from neuronmodel_worker.engines import open_engine
from neuronmodel_worker.io.disk import free_bytes
from neuronmodel_worker.plan.streamed import make_plan
from neuronmodel_worker.report.clock import FirstLine, StartClock
from neuronmodel_worker.run.context import Run
from neuronmodel_worker.serve.background import ShuttingDown, Throttle
from neuronmodel_worker.serve.sealing import SealingBehind
from neuronmodel_worker.store import SHARDS, Store
from neuronmodel_worker.store.source_records import SOURCE_FILE, SourceDigests
from neuronmodel_worker.stream import TensorSink, run
from tests.unit.worker.test_cli import ask, phases
from tests.unit.worker.workers import Place, Worker, returned
from tests.volumes import volume_in_memory

BEHIND = {"strategy": "ShardOnCompile", "seal": "Behind"}


@contextmanager
def served(place: Place, **changes: Any) -> Iterator[Worker]:
    with place.started("serve", **{**BEHIND, **changes}) as worker:
        worker.until_ready()
        yield worker


def state(worker: Worker) -> SealingState | None:
    sealing = worker.status().sealing
    return sealing.state if sealing else None


def end(worker: Worker) -> Report:
    worker.process.send_signal(signal.SIGTERM)
    ended = worker.wait()
    assert ended.code == 0
    return ended.report


def sealing_of(place: Place) -> SealingBehind:
    """What a start has in hand when it is ready."""
    job = Run(WorkerConfig.model_validate(place.config(**BEHIND)), StartClock(Stage.SERVE, FirstLine.now()))
    plan = make_plan(open_checkpoint(place.source), job.config.neuron_config)
    content = plan.checkpoint.fingerprint
    wanted = wanted_artifacts(job.config, plan, open_engine(job.config), content)
    assert wanted.shards_key
    sealing, sink = SealingBehind(job, plan, wanted, wanted.shards_key, content), TensorSink()
    run(plan, sink, observer=sealing.digests)
    sealing.keep(sink.tensors)
    return sealing


def report_of(sealing: SealingBehind) -> Report:
    return sealing.job.clock.snapshot()


class Asked(Throttle):
    """Nothing is busy; calls `each` before every piece, with how many came before."""

    def __init__(self, each: Callable[[int], None] = lambda _: None) -> None:
        self.times = 0
        self._each = each

    def wait(self) -> None:
        self._each(self.times)
        self.times += 1


def stop() -> None:
    raise ShuttingDown


def weights(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((directory / "weights").iterdir())}


def test_it_answers_before_the_shards_are_sealed_and_the_next_start_reads_them(place: Place) -> None:
    result = place.prepare(**BEHIND).result
    assert result is not None
    key, config = str(result.shards_key), returned(result.to_json())
    with Store(place.artifacts).build(SHARDS, key), served(place, **config) as worker:  # somebody else is at it
        answer = ask(worker)
        report = worker.status()
        assert (state(worker), report.tier) == (SealingState.PENDING, "Source")
        assert "Sharded" in phases(report)
        assert not Store(place.artifacts, read_only=True).find(SHARDS, key)
    with served(place, **config) as worker:
        assert ask(worker) == answer
        worker.until(lambda: state(worker) is SealingState.SEALED)
        metrics = worker.admin("/metrics").text
        report = end(worker)
    assert report.sealing
    assert report.sealing.done == report.sealing.total > 0
    assert f"neuronmodel_sealing_bytes {float(report.sealing.total)}" in metrics
    assert 'neuronmodel_sealing_state{state="Sealed"} 1.0' in metrics
    again = place.prepare(**BEHIND).result
    assert again is not None
    assert (again.shards_key, again.shards_cache) == (key, "Hit")
    with served(place, **config) as worker:
        assert ask(worker) == answer
        report = end(worker)
    assert (report.tier, report.sealing) == ("Artifacts", None)
    assert "Sharded" not in phases(report)


def test_what_is_sealed_behind_is_what_prepare_would_have_written(place: Place) -> None:
    sealing = sealing_of(place)
    sealing.seal(Asked())
    assert report_of(sealing).sealing.state is SealingState.SEALED  # type: ignore[union-attr]
    assert not sealing.tensors
    behind = Store(place.artifacts, read_only=True).find(SHARDS, sealing.key)
    other = Place(place.root / "other", place.source)
    other.root.mkdir()
    other.prepare()
    before = Store(other.artifacts, read_only=True).find(SHARDS, sealing.key)
    assert behind
    assert before
    assert weights(behind.directory) == weights(before.directory)
    assert {**behind.manifest.files} == {**before.manifest.files}
    digests = SourceDigests.model_validate_json((behind.directory / SOURCE_FILE).read_bytes())
    assert digests.tensors.keys() >= sealing.plan.reads.keys()


def test_what_was_sealed_when_the_worker_had_to_stop_is_taken_over(place: Place) -> None:
    first = sealing_of(place)
    pieces = Asked()
    sealing_of(Place(place.root / "elsewhere", place.source)).seal(pieces)
    with pytest.raises(ShuttingDown):
        first.seal(Asked(lambda times: stop() if times > pieces.times // 2 else None))
    report = report_of(first).sealing
    assert report
    assert 0 < report.done < report.total
    assert report.message.startswith("The worker was told to stop.")
    kept = {path.name: path.stat().st_ino for path in (place.artifacts / "staging").glob("*/weights/*")}
    assert list(kept) == ["tp0_sharded_checkpoint.safetensors"]

    second, asked = sealing_of(place), Asked()
    second.seal(asked)
    sealed = Store(place.artifacts, read_only=True).find(SHARDS, second.key)
    assert sealed
    assert asked.times < pieces.times
    assert {name: (sealed.directory / "weights" / name).stat().st_ino for name in kept} == kept
    other = sealing_of(Place(place.root / "elsewhere", place.source))
    whole = Store(other.job.artifacts, read_only=True).find(SHARDS, other.key)
    assert whole
    assert weights(sealed.directory) == weights(whole.directory)


def test_shards_that_another_worker_sealed_meanwhile_are_as_good(place: Place) -> None:
    one, other = sealing_of(place), sealing_of(place)
    one.seal(Asked())
    other.seal(Asked(lambda _: pytest.fail("it writes what is there")))
    assert report_of(other).sealing.state is SealingState.SEALED  # type: ignore[union-attr]


def test_a_full_volume_ends_sealing_and_not_serving(place: Place) -> None:
    with volume_in_memory(place.root / "volume", 12_000_000) as volume:
        place.settings = {"artifactsPath": str(volume)}
        place.prepare(strategy="ShardOnLoad")
        (volume / "others").write_bytes(bytes(free_bytes(volume) - 200_000))
        with served(place) as worker:
            worker.until(lambda: state(worker) is SealingState.FAILED)
            assert ask(worker)
            report = end(worker)
    assert report.sealing
    assert "bytes are needed" in report.sealing.message
    assert [note.reason for note in report.notes] == ["SealingFailed"]


def test_a_volume_that_becomes_full_with_the_last_file_is_reported_as_such(place: Place) -> None:
    with volume_in_memory(place.root / "volume", 12_000_000) as volume:
        place.settings = {"artifactsPath": str(volume)}
        pieces, sealing = Asked(), sealing_of(place)
        sealing_of(Place(place.root / "elsewhere", place.source)).seal(pieces)

        def fill(times: int) -> None:
            if times == pieces.times - 1:
                (volume / "others").write_bytes(bytes(free_bytes(volume)))

        sealing.seal(Asked(fill))
        report = report_of(sealing).sealing
        assert report
        assert report.state is SealingState.FAILED
        assert re.search(r"(The volume of|bytes are needed on the volume of) \S+", report.message)
        assert not any(volume.glob("staging/*/"))


def test_the_worker_stops_soon_amid_sealing(place: Place) -> None:
    place.prepare(strategy="ShardOnLoad")
    with Store(place.artifacts).build(SHARDS, sealing_of(place).key), served(place) as worker:
        worker.until(lambda: state(worker) is SealingState.PENDING)
        report = end(worker)
    assert report.sealing
    assert report.sealing.message.startswith("The worker was told to stop.")
