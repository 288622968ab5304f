"""Generated checkpoints are right, and the loop of today writes from them what we write."""

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open

from hack.bench.cases import COMMAND_OF_405B, Case, cases, plain, quick_cases
from hack.bench.checkpoints import Model, ensure_checkpoint, random_bytes, write_headers
from hack.bench.contenders import shard_to_files, todays_loop
from hack.bench.contenders.task import Task
from hack.bench.failures import BenchFailed
from hack.bench.rounds import OUTPUT_FACTOR
from neuronmodel_worker.checkpoint import open_checkpoint
from neuronmodel_worker.plan.streamed import make_plan

DENSE = Model(hidden=64, intermediate=96, layers=2, query_heads=8, key_value_heads=2, vocabulary=128, head_size=8)
SPARSE = Model(
    hidden=64, intermediate=96, layers=2, query_heads=8, key_value_heads=2, vocabulary=128, head_size=8, experts=3
)


def test_a_checkpoint_has_the_tensors_that_its_model_says_and_opens(tmp_path: Path) -> None:
    ensure_checkpoint(tmp_path / "model", DENSE)
    checkpoint = open_checkpoint(tmp_path / "model")
    assert {name: tensor.shape for name, tensor in checkpoint.tensors.items()} == DENSE.tensors
    assert {tensor.dtype for tensor in checkpoint.tensors.values()} == {"BF16"}
    assert sum(tensor.nbytes for tensor in checkpoint.tensors.values()) == DENSE.nbytes
    with safe_open(tmp_path / "model" / "model.safetensors", "pt") as opened:
        assert set(opened.keys()) == DENSE.tensors.keys()


def test_a_large_one_lies_in_several_files_of_bounded_size(tmp_path: Path) -> None:
    ensure_checkpoint(tmp_path / "model", DENSE, file_bytes=40_000)
    checkpoint = open_checkpoint(tmp_path / "model")
    assert len(checkpoint.files) > 2
    held: Counter[Path] = Counter()
    for tensor in checkpoint.tensors.values():
        held[tensor.file.path] += tensor.nbytes
    assert max(held.values()) <= 40_000


def test_its_bytes_are_random_and_the_same_every_time() -> None:
    first, again, other = (
        np.concatenate([np.frombuffer(chunk, np.uint8) for chunk in random_bytes(name, 20_000_003)])
        for name in ("one", "one", "other")
    )
    assert len(first) == 20_000_003
    assert (first == again).all()
    assert np.bincount(first == other)[1] / len(first) == pytest.approx(1 / 256, rel=0.02)
    assert np.bincount(first, minlength=256) / len(first) == pytest.approx(1 / 256, rel=0.02)


def test_a_whole_one_is_kept_and_half_of_one_is_written_again(tmp_path: Path) -> None:
    weights = ensure_checkpoint(tmp_path / "model", DENSE) / "model.safetensors"
    before = weights.stat().st_mtime_ns
    ensure_checkpoint(tmp_path / "model", DENSE)
    assert weights.stat().st_mtime_ns == before
    (tmp_path / "model" / "bench.json").unlink()
    ensure_checkpoint(tmp_path / "model", DENSE)
    assert weights.stat().st_mtime_ns != before


def test_one_without_room_is_refused_with_both_figures(tmp_path: Path) -> None:
    too_large = Model(2**20, 2**20, 999, 8, 8, 2**20)
    with pytest.raises(BenchFailed, match=r"needs [\d.]+ GB .* [\d.]+ GB are free"):
        ensure_checkpoint(tmp_path / "model", too_large)


FLAGS = [
    (DENSE, plain(2)),
    (DENSE, plain(8)),
    (DENSE, plain(16)),
    (DENSE, {**COMMAND_OF_405B, "tp_degree": 8, "local_ranks_size": 8}),
    (DENSE, {**COMMAND_OF_405B, "tp_degree": 16, "local_ranks_size": 16}),
    (SPARSE, plain(8)),
    (SPARSE, plain(2)),
]


@pytest.mark.parametrize(("model", "flags"), FLAGS)
def test_the_loop_of_today_writes_what_we_write(model: Model, flags: Mapping[str, Any], tmp_path: Path) -> None:
    source = ensure_checkpoint(tmp_path / "model", model, file_bytes=100_000)
    theirs, ours = (tmp_path / name for name in ("theirs", "ours"))
    todays_loop.prepare(Task(source, theirs, flags))()
    shard_to_files.prepare(Task(source, ours, flags))()
    assert {path.name for path in theirs.iterdir()} == {path.name for path in ours.iterdir()}
    for path in ours.iterdir():
        assert contents(theirs / path.name) == contents(path)


def contents(path: Path) -> dict[str, tuple[str, list[int], bytes]]:
    """Every tensor's type, shape and bytes."""
    raw = path.read_bytes()
    start = 8 + int.from_bytes(raw[:8], "little")
    entries = json.loads(raw[8:start])
    entries.pop("__metadata__", None)
    return {
        name: (entry["dtype"], entry["shape"], raw[start + entry["data_offsets"][0] : start + entry["data_offsets"][1]])
        for name, entry in entries.items()
    }


EVERY_CASE = [case for some in (cases(), quick_cases()) for case in some]


@pytest.mark.parametrize("case", EVERY_CASE, ids=lambda case: f"{case.name}-{case.model.nbytes >> 20}")
def test_a_case_can_be_planned_and_compares_contenders_that_it_has(case: Case, tmp_path: Path) -> None:
    write_headers(tmp_path, case.model)
    for contender in case.contenders:
        if contender.neuron_config:
            plan = make_plan(open_checkpoint(tmp_path), contender.neuron_config)
            assert plan.source_bytes == case.model.nbytes
            assert plan.output_bytes < OUTPUT_FACTOR * case.model.nbytes
    names = {contender.name for contender in case.contenders}
    assert {each.contender for each in case.comparisons} <= names
    assert [each.title for each in case.comparisons if not names & set(each.against)] == []
