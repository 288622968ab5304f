"""Contenders in processes of their own, on a model of a few kilobytes."""

from contextlib import suppress
from pathlib import Path

import pytest

from hack.bench.cases import plain
from hack.bench.checkpoints import Model, ensure_checkpoint, write_headers
from hack.bench.children import run_contender
from hack.bench.contenders.task import Task
from hack.bench.failures import BenchFailed
from hack.bench.rounds import PRACTICE
from tests.waiting import until

SMALL = Model(hidden=64, intermediate=96, layers=1, query_heads=8, key_value_heads=2, vocabulary=128, head_size=8)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return ensure_checkpoint(tmp_path / "model", SMALL)


def test_the_machine_is_made_quiet_once_a_contender_is_prepared_and_before_it_runs(
    source: Path, tmp_path: Path
) -> None:
    output, seen = tmp_path / "shards", []
    task = Task(source, output, plain(2), practice=source)
    measured = run_contender("shard_to_files", task, lambda: seen.append(output.exists()))
    assert seen == [False]
    assert {path.name for path in output.iterdir()} == {f"tp{rank}_sharded_checkpoint.safetensors" for rank in (0, 1)}
    assert 0 < measured.timing.seconds < measured.process_seconds
    assert measured.timing.user_seconds + measured.timing.system_seconds <= measured.process_processor_seconds
    assert 0 < measured.anonymous_bytes_before <= measured.peak_anonymous_bytes


def test_memory_that_is_allocated_ahead_is_there_when_the_clock_starts(tmp_path: Path) -> None:
    source = ensure_checkpoint(tmp_path / "model", PRACTICE)
    fresh, allocated = (
        run_contender("shard_to_memory", Task(source, tmp_path, plain(8), {"allocated": ahead}), lambda: None)
        for ahead in (False, True)
    )
    assert allocated.anonymous_bytes_before - fresh.anonymous_bytes_before > 0.9 * PRACTICE.nbytes
    assert fresh.peak_anonymous_bytes - fresh.anonymous_bytes_before > 0.9 * PRACTICE.nbytes


@pytest.mark.parametrize(("into", "expected"), [("files", {"write", "digest", "allocate files"}), ("memory", set())])
def test_processor_seconds_are_told_by_step(source: Path, tmp_path: Path, into: str, expected: set[str]) -> None:
    flags = {**plain(2), "fused_qkv": True, "mlp_kernel_enabled": True}
    task = Task(source, tmp_path / "shards", flags, {"into": into}, processors=1)
    steps = run_contender("steps", task, lambda: None, {"NEURONMODEL_NATIVE": "off"}).timing.steps
    assert steps
    assert steps.keys() - {"lend and zero memory"} == {
        "read", "copy", "transpose", "fused QKV", "planning and the rest", *expected,
    }  # fmt: skip
    assert all(seconds >= 0 for seconds in steps.values())
    if into == "files":
        assert len(list(task.output.iterdir())) == 2


@pytest.mark.parametrize("alone", [True, False])
def test_the_scheduler_runs_without_weights(tmp_path: Path, alone: bool) -> None:
    write_headers(tmp_path / "model", SMALL)
    options = {"threads": 8, "bytes_per_second": 1e9, "alone": alone}
    timing = run_contender("simulated", Task(tmp_path / "model", tmp_path, plain(2), options), lambda: None).timing
    assert timing.seconds > 0
    assert (timing.steps is None) == alone
    assert alone or (timing.steps or {}).keys() == {"queue", "tasks"}


def test_the_output_of_a_contender_that_failed_is_shown(source: Path, tmp_path: Path) -> None:
    task = Task(source, tmp_path / "missing" / "copies")
    with pytest.raises(BenchFailed, match=r"copy ended with exit code 1 .*\n(.*\n)*.*No such file or directory"):
        run_contender("copy", task, lambda: None)


@pytest.mark.parametrize("module", ["from_hub", "from_s3"])
def test_a_server_that_a_contender_starts_ends_with_it(source: Path, tmp_path: Path, module: str) -> None:
    running: list[list[str]] = []
    task = Task(source, tmp_path / "shards", options={"into": "nothing", "bytes_per_second": 1e9})
    measured = run_contender(module, task, lambda: running.append(serving(source)))
    assert measured.timing.seconds > 0
    assert len(running[0]) == 1
    until(lambda: not serving(source), "the server to end")


def serving(source: Path) -> list[str]:
    """The processes of stand-ins that serve this folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            arguments = path.read_bytes().decode(errors="replace").split("\0")
            found += [path.parent.name for each in arguments if each.endswith(f"={source}")]
    return found
