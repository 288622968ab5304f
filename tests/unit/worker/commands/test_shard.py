"""`neuronmodel shard`: what it writes, what it says, and what becomes of what was there."""

import errno
import fcntl
import json
import os
import re
import stat
from pathlib import Path
from typing import Any

import pytest

from neuronmodel_api import exits
from neuronmodel_worker.checkpoint import open_checkpoint
from neuronmodel_worker.plan.streamed import make_plan
from neuronmodel_worker.store import shards_key
from tests.model_cases import decoder_tensors
from tests.paths import GOLDEN
from tests.unit.worker.commands.commands import Place, described, files, here, neuronmodel

# A case of each family, partial ranks, and the 405B command's flags.
CASES = [
    "llama/llama-tp8-ranks-2-4",
    "llama/llama-tp64-seed-flags-405b-heads",
    "mistral/mistral-tp4",
    "mixtral/mixtral-tp4",
    "qwen2/qwen2-tp4",
    "qwen3/qwen3-tp4",
    "qwen3_moe/qwen3_moe-tp4",
]


@pytest.mark.parametrize("name", CASES)
def test_the_files_are_those_that_nxd_inference_writes(name: str, tmp_path: Path) -> None:
    case = json.loads((GOLDEN / f"{name}.json").read_text())
    place = Place.make(tmp_path, **case)
    place.sharded()
    assert described(place.weights) == case["shards"]
    assert here("verify", "--full", place.output).code == 0


def test_as_a_process_it_says_what_it_wrote(place: Place) -> None:
    ended = neuronmodel(*place.shard, "--threads", "2")
    assert ended.code == 0
    nbytes = sum(path.stat().st_size for path in place.weights.iterdir())
    (line,) = ended.out.splitlines()
    assert re.fullmatch(r"wrote \d+ kB in 4 rank files in \d+\.\d\d s \([\d.,]+ [kMG]B/s\)", line)
    assert f"wrote {nbytes / 1000:.0f} kB" in line
    assert ended.err == ""
    assert place.listing() == files(range(4))


def test_the_fields_may_come_over_standard_input(place: Place) -> None:
    ended = neuronmodel(
        "shard", "--model", place.model, "--neuron-config", "-", "--output", place.output, stdin='{"tp_degree": 2}'
    )
    assert ended.code == 0, ended.err
    assert place.listing() == files(range(2))


def test_the_key_is_the_stores(place: Place) -> None:
    place.sharded()
    plan = make_plan(open_checkpoint(place.model), {"tp_degree": 4})
    assert place.manifest["key"] == shards_key(plan.checkpoint.fingerprint, plan.layout_inputs())
    assert place.manifest["source_fingerprint"] == plan.checkpoint.fingerprint


def test_a_second_run_writes_the_same_again(place: Place) -> None:
    place.sharded()
    before = described(place.weights)
    ended = place.sharded()
    assert ended.err == ""
    assert described(place.weights) == before
    assert place.listing() == files(range(4))


def test_a_smaller_degree_leaves_no_file_of_the_larger_one(place: Place) -> None:
    place.sharded()
    (place.output / "notes.txt").write_text("mine")
    (place.weights / "tp3_notes.txt").write_text("mine")
    place.configure(tp_degree=2)
    ended = place.sharded()
    assert place.listing() == sorted([*files(range(2)), "notes.txt", "weights/tp3_notes.txt"])
    assert "removed tp2_sharded_checkpoint.safetensors, tp3_sharded_checkpoint.safetensors from" in ended.sentence
    assert here("verify", "--full", place.output).code == 0


def test_what_nxd_inference_left_is_not_taken_for_ours(place: Place) -> None:
    place.sharded()
    (place.output / "manifest.json").unlink()
    place.configure(tp_degree=2)
    assert "removed tp2" in place.sharded().sentence
    assert place.listing() == files(range(2))


def test_ranks_of_one_set_come_together_from_several_runs(place: Place) -> None:
    place.sharded()
    whole, manifest = described(place.weights), place.manifest
    for path in place.weights.iterdir():
        path.unlink()
    for ranks in ("0", "3", "1-2"):
        ended = place.sharded("--ranks", ranks)
        assert ended.err == ""
        assert here("verify", "--full", place.output).code == 0, ranks
    assert described(place.weights) == whole
    assert {**place.manifest, "created": None} == {**manifest, "created": None}


def test_ranks_that_are_no_longer_whole_are_not_kept(place: Place) -> None:
    place.sharded("--ranks", "0-1")
    (place.weights / "tp0_sharded_checkpoint.safetensors").write_text("cut")
    ended = place.sharded("--ranks", "2,3")
    assert "removed tp0" in ended.sentence
    assert place.listing() == files(range(1, 4))
    assert here("verify", "--full", place.output).code == 0


def test_ranks_of_another_source_are_not_kept(place: Place) -> None:
    place.sharded("--ranks", "0-1")
    next(place.model.glob("*.safetensors")).touch()
    assert "removed tp0" in place.sharded("--ranks", "2-3").sentence
    assert place.listing() == files(range(2, 4))


@pytest.mark.parametrize(
    ("ranks", "fields", "words"),
    [
        ("4", {}, "rank 4, and tp_degree=4 of .* has ranks 0 to 3"),
        ("2-9", {}, "ranks 2 to 9"),
        ("0,2", {}, "leaves out ranks in between"),
        ("3-1", {}, "such as 3 or 0-15"),
        ("", {}, "such as 3 or 0-15"),
        ("all", {}, "such as 3 or 0-15"),
        ("1", {"start_rank_id": 2}, "start_rank_id=1, .* says start_rank_id=2"),
        ("0-1", {"local_ranks_size": 4}, "local_ranks_size=2, .* says local_ranks_size=4"),
    ],
)
def test_ranks_that_cannot_be_are_refused(ranks: str, fields: dict[str, Any], words: str, place: Place) -> None:
    place.configure(tp_degree=4, **fields)
    ended = here(*place.shard, "--ranks", ranks)
    assert ended.code == exits.USAGE
    assert re.search(words, ended.sentence)
    assert not place.output.exists()


def test_ranks_that_agree_with_the_file_are_taken(place: Place) -> None:
    place.configure(tp_degree=4, start_rank_id=1, local_ranks_size=2)
    place.sharded("--ranks", "1-2")
    assert place.listing() == files(range(1, 3))


def test_a_warning_of_the_plan_is_shown(place: Place) -> None:
    config = json.loads((place.model / "config.json").read_text())
    ended = Place.make(place.root / "other", **biased_mistral(config)).sharded()
    assert "q_proj are left out" in ended.sentence


def biased_mistral(config: dict[str, Any]) -> dict[str, Any]:
    """A case of a family without biases, whose checkpoint has some."""
    described = {**config, "model_type": "mistral", "head_dim": 16}
    tensors = [*decoder_tensors(described), ["model.layers.0.self_attn.q_proj.bias", [64]]]
    return {"hf_config": described, "tensors": tensors, "dtype": "bfloat16", "neuron_config": {"tp_degree": 2}}


def test_a_file_system_without_locks_on_folders_is_written_to(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    flock = fcntl.flock

    def not_on_folders(descriptor: int, operation: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        flock(descriptor, operation)

    monkeypatch.setattr("fcntl.flock", not_on_folders)
    place.sharded()
    assert place.listing() == files(range(4))
    assert here("verify", place.output).code == 0


def test_two_at_once_do_not_write_into_one_folder(place: Place) -> None:
    with place.paused() as first:
        second = neuronmodel(*place.shard)
        assert second.code == exits.TRANSIENT
        assert f"Another neuronmodel command is at work in {place.output}" in second.sentence
        assert here("verify", place.output).code == exits.TRANSIENT
        _, err = first.communicate()
        assert (first.returncode, err) == (0, b"")
    assert place.listing() == files(range(4))
    assert here("verify", "--full", place.output).code == 0
