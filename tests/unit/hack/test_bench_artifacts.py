"""Contenders that seal, check, start and load a model of a few kilobytes; answers of a worker that follows a script."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from hack.bench import rounds
from hack.bench.answers import Place, write_tokenizer
from hack.bench.cases import Case, Contender, plain
from hack.bench.checkpoints import Model, ensure_checkpoint
from hack.bench.contenders import load, seal, start, verify_set
from hack.bench.contenders.task import Task, volume_next_to
from hack.bench.failures import BenchFailed
from hack.bench.quiet import Filler, Patience
from hack.bench.rounds import Bench, rank_files
from neuronmodel_api.report import Report, Sealing, SealingState, Stage, State
from neuronmodel_worker.store import SHARDS, Store
from neuronmodel_worker.text import TokenizerFiles, read_tokenizer

SMALL = Model(hidden=64, intermediate=96, layers=1, query_heads=8, key_value_heads=2, vocabulary=128, head_size=8)


@pytest.fixture
def task(tmp_path: Path) -> Task:
    """A task with what was prepared on the volume next to its checkpoint."""
    source = ensure_checkpoint(tmp_path / "model", SMALL)
    task = Task(source, tmp_path / "output", plain(2))
    seal.prepare(task)()
    return task


@pytest.mark.parametrize("command", ["artifacts", "verify"])
def test_every_byte_of_a_sealed_set_is_read(task: Task, command: str) -> None:
    weights = rank_files(task.source)
    check = verify_set.prepare(Task(weights, task.output, options={"command": command}))
    check()
    with (weights / "tp1_sharded_checkpoint.safetensors").open("r+b") as file:
        file.seek(-1, 2)
        last = file.read(1)
        file.seek(-1, 2)
        file.write(bytes([last[0] ^ 1]))
    with pytest.raises(RuntimeError, match="exit code"):
        check()


def test_a_start_with_all_sealed_finds_it_and_one_with_nothing_builds_it(task: Task) -> None:
    start.prepare(Task(task.source, task.output, task.neuron_config, {"sealed": True}))()
    assert not (task.output / "shards").exists()
    start.prepare(Task(task.source, task.output, task.neuron_config, {"sealed": False}))()
    assert len(list(task.output.glob("shards/*/weights/*.safetensors"))) == 2


def test_a_start_that_found_what_it_should_not_does_not_count(task: Task) -> None:
    other = Task(task.source, task.volume, task.neuron_config, {"sealed": False})
    with pytest.raises(RuntimeError, match="was to be a Miss and was a Hit"):
        start.prepare(other)()


@pytest.mark.parametrize("behind", [True, False])
def test_of_a_load_count_its_phases_up_to_the_rank_tensors_and_nothing_is_sealed(task: Task, behind: bool) -> None:
    seconds = load.prepare(Task(task.source, task.output, task.neuron_config, {"behind": behind}))()
    assert isinstance(seconds, float)
    assert 0 <= seconds < 60
    assert (task.output / "compiled").is_dir()
    assert not (task.output / "shards").exists()


def test_both_volume_and_checkpoint_are_out_of_the_page_cache(task: Task) -> None:
    names = [path.name for path in task.evicted_files]
    assert names == ["model.safetensors", *(f"tp{rank}_sharded_checkpoint.safetensors" for rank in (0, 1))]
    of_set = Task(rank_files(task.source), task.output)
    assert of_set.evicted_files == of_set.source_files
    assert len(of_set.source_files) == 2


def test_a_case_has_its_checkpoint_sealed_before_the_first_round(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rounds, "PRACTICE", SMALL)
    reading = Contender("raw read, 1 thread", "raw_read", options={"threads": 1}, reads_shards=True)
    case = Case("small", "A small model", SMALL, (reading,), (), sealed=plain(2))
    filler = Filler(tmp_path / "filler")
    try:
        bench = Bench(tmp_path, filler, Patience(0, 0))
        bench.pace.expect(case, 1)
        ran = bench.run(case, 1, keep=True)
        source = tmp_path / f"small-{SMALL.nbytes}"
        key = rank_files(source).parent.name
        assert not Store(volume_next_to(source), read_only=True).problems(SHARDS, key, full=True)
        assert [run.contender for run in ran.runs] == [reading.name]
    finally:
        filler.close()


def test_a_volume_without_its_shards_is_reported(tmp_path: Path) -> None:
    with pytest.raises(BenchFailed, match="holds 0 sets of shards"):
        rank_files(tmp_path / "model")


# Answers.


@dataclass
class Scripted:
    """Its answers take 1, 2, 3, … seconds; the shards are sealed while it computes the `sealed_in`-th."""

    sealed_in: int
    given: list[float] = field(default_factory=list)

    def until(self, state: SealingState) -> None:
        pass

    def answer(self) -> float:
        self.given.append(len(self.given) + 1.0)
        return self.given[-1]

    def state(self) -> SealingState:
        return SealingState.SEALED if len(self.given) >= self.sealed_in else SealingState.WRITING

    def status(self) -> Report:
        began = datetime.now(UTC)
        sealing = Sealing(state=SealingState.SEALED, total=7, started_at=began, ended_at=began + timedelta(seconds=3))
        return Report(stage=Stage.SERVE, state=State.READY, pod_uid="", spec_hash="", started_at=began, sealing=sealing)


def play(worker: Scripted, directory: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    @contextmanager
    def started(*_: object) -> Iterator[Scripted]:
        yield worker

    monkeypatch.setattr(Place, "_started", started)
    return Place(directory, directory / "volume", directory / "output", tokens=8)


def test_answers_count_that_lie_within_the_sealing_and_as_many_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = play(Scripted(sealed_in=4), tmp_path, monkeypatch).round()
    assert (one.sealing, one.after) == ((2.0, 3.0), (5.0, 6.0))
    assert (one.sealed_bytes, one.sealed_seconds, one.ratio) == (7, 3.0, 2.5 / 5.5)


def test_shards_that_are_sealed_before_an_answer_is_there_prove_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(BenchFailed, match="this disk is too fast"):
        play(Scripted(sealed_in=2), tmp_path, monkeypatch).round()


def test_a_worker_reads_the_tokenizer(tmp_path: Path) -> None:
    write_tokenizer(tmp_path)
    tokenizer = read_tokenizer(TokenizerFiles(tmp_path))
    assert (tokenizer.encode("7 255"), tokenizer.decode([7, 255]), tokenizer.end_token) == ([7, 255], "7 255", None)


def test_weights_to_compute_with_are_finite_and_small(tmp_path: Path) -> None:
    finite = Model(**{**vars(SMALL), "finite": True})
    ensure_checkpoint(tmp_path, SMALL)
    weights = ensure_checkpoint(tmp_path, finite) / "model.safetensors"
    numbers = np.frombuffer(weights.read_bytes()[-finite.nbytes :], np.uint16).astype(np.uint32) << 16
    sizes = np.abs(numbers.view(np.float32))
    assert (sizes >= 2**-7).all()
    assert (sizes < 2**-6).all()
    assert len(np.unique(numbers)) == 256
