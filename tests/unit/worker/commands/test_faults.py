"""Host commands that cannot do what they are asked to: one sentence, an exit code, and nothing left behind."""

import errno
import json
import os
import signal
import stat
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from neuronmodel_api import exits
from tests.unit.worker.commands.commands import MODES_COUNT, PYTHON, Place, files, here, neuronmodel
from tests.volumes import volume_in_memory

# What becomes of the file of fields, and what the sentence says of it.
BAD_FIELDS: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "line 1, column 1"),
    "cut": (b'{\n "tp_degree": 4,\n', "line 3, column 1"),
    "comma": (b'{"tp_degree": 4,\n"a": 1 2}', "line 2, column 8"),
    "not_utf8": (b'{"tp_degree": 4, "\xff": 1}', "byte 18"),
    "no_object": (b"[4]", "holds no JSON object"),
    "twice": (b'{"tp_degree": 4, "tp_degree": 8}', "has 'tp_degree' twice"),
    "whole": (b'{"hidden_size": 64, "neuron_config": {"tp_degree": 4}}', "under neuron_config alone"),
    "deep": (b"[" * 100_000, "is not valid JSON"),
    "long": (b" " * (2 << 20), "longer than 1,048,576 bytes"),
    "long_number": (b'{"tp_degree": ' + b"9" * 5000 + b"}", "is not valid JSON"),
    "unknown": (b'{"tp_degree": 4, "a_flag_of_tomorrow": 1}', "a_flag_of_tomorrow=1"),
    "escapes": (b'{"tp_degree": 4, "a\\nb\\u001b\\ud800": 1}', r"a\nb\x1b\ud800=1"),
    "string": (b'{"tp_degree": "4"}', "to be an integer of at least 1"),
    "huge": (b'{"tp_degree": 1000000000}', "at most 4096"),
    "no_layout": (b'{"tp_degree": 4, "cp_degree": 2}', "cp_degree=2"),
    "past": (b'{"tp_degree": 4, "start_rank_id": 3, "local_ranks_size": 2}', "Ranks 3 to 4"),
}


@pytest.mark.parametrize("what", BAD_FIELDS)
def test_fields_that_cannot_be_are_refused_in_a_sentence(what: str, place: Place) -> None:
    content, words = BAD_FIELDS[what]
    place.config.write_bytes(content)
    ended = here(*place.shard)
    assert ended.code == exits.BAD_INPUT
    assert words in ended.sentence
    assert not place.output.exists()


def test_over_standard_input_too(place: Place) -> None:
    arguments = ("shard", "--model", place.model, "--neuron-config", "-", "--output", place.output)
    ended = neuronmodel(*arguments, stdin=b'{"tp_degree": \xff')
    assert ended.code == exits.BAD_INPUT
    assert "standard input is not in UTF-8: byte 14" in ended.sentence
    closed = subprocess.run(
        ["sh", "-c", f"exec {neuronmodel_as_text(arguments)} <&- >&-"], capture_output=True, text=True, check=False
    )
    assert closed.returncode == exits.BAD_INPUT
    assert "Standard input is closed" in closed.stderr


def neuronmodel_as_text(arguments: tuple[object, ...]) -> str:
    return " ".join(f"'{each}'" for each in (*PYTHON, *arguments))


def change_model(place: Place, **changes: Any) -> None:
    file = place.model / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def weights_of(place: Place) -> Path:
    return min(place.model.glob("*.safetensors"))


Step = Callable[[Place], object]

# What is done to a place, and what the sentence then says.
BAD_PLACES: dict[str, tuple[list[Step], str]] = {
    "no_fields": ([lambda p: p.config.unlink()], "neuron.json cannot be read: No such file"),
    "fields_folder": (
        [lambda p: p.config.unlink(), lambda p: p.config.mkdir()],
        "neuron.json cannot be read: Is a directory",
    ),
    "no_model": ([lambda p: p.model.rename(p.root / "away")], "There is no directory at"),
    "model_file": (
        [lambda p: p.model.rename(p.root / "away"), lambda p: p.model.write_text("")],
        "There is no directory at",
    ),
    "no_config": ([lambda p: (p.model / "config.json").unlink()], "holds no config.json"),
    "other_family": ([lambda p: change_model(p, model_type="gpt2")], "model type 'gpt2'"),
    "cut_source": ([lambda p: os.truncate(weights_of(p), 5000)], "is truncated"),
    "missing_source": ([lambda p: weights_of(p).unlink()], "holds no such file"),
    "output_file": ([lambda p: p.output.write_text("mine")], "output is no folder"),
    "output_below_file": (
        [lambda p: p.output.symlink_to("neuron.json/below")],
        "output is no folder",
    ),
    "output_link": ([lambda p: p.output.symlink_to("nowhere")], "output is no folder"),
    "output_loop": ([lambda p: p.output.symlink_to("output")], "output is no folder"),
    "output_is_model": ([lambda p: p.output.symlink_to("model")], "lies within the checkpoint's folder"),
    "weights_is_model": (
        [lambda p: p.output.mkdir(), lambda p: p.weights.symlink_to("../model")],
        "output/weights lies within the checkpoint's folder",
    ),
    "weights_file": (
        [lambda p: p.output.mkdir(), lambda p: p.weights.write_text("mine")],
        "weights is no folder",
    ),
    "rank_folder": (
        [lambda p: (p.weights / "tp2_sharded_checkpoint.safetensors").mkdir(parents=True)],
        "tp2_sharded_checkpoint.safetensors is a folder",
    ),
    "foreign_manifest": (
        [lambda p: p.output.mkdir(), lambda p: (p.output / "manifest.json").write_text('{"short_name": "app"}')],
        "manifest.json is no manifest of shards",
    ),
    "newer_manifest": (
        [lambda p: p.output.mkdir(), lambda p: (p.output / "manifest.json").write_text('{"format": 7}')],
        "in format 7",
    ),
}


def everything(root: Path) -> dict[Path, bytes | str]:
    """Every path below, with what it holds or points to."""

    def content(path: Path) -> bytes | str:
        if path.is_symlink():
            return str(path.readlink())
        return path.read_bytes() if path.is_file() else "folder"

    return {path: content(path) for path in root.rglob("*")}


@pytest.mark.parametrize("what", BAD_PLACES)
def test_places_that_cannot_be_are_refused_in_a_sentence(what: str, place: Place) -> None:
    steps, words = BAD_PLACES[what]
    for step in steps:
        step(place)
    before = everything(place.root)
    ended = here(*place.shard)
    assert ended.code == exits.BAD_INPUT
    assert words in ended.sentence
    assert ended.out == ""
    assert everything(place.root) == before


def test_an_output_within_the_model_is_refused(place: Place) -> None:
    for output in (place.model, place.model / "a" / "b", place.model / ".." / "model" / "c"):
        ended = here("shard", *place.source, "--output", output)
        assert ended.code == exits.BAD_INPUT
        assert "lies within the checkpoint's folder" in ended.sentence
    assert all(path.is_file() for path in place.model.iterdir())


@pytest.mark.parametrize("threads", ["0", "-1", "many", "1025", "1.5", ""])
def test_threads_are_bounded(threads: str, place: Place) -> None:
    for command in (place.shard, ("plan", *place.source), ("load", *place.source), ("verify", place.root)):
        ended = here(*command, f"--threads={threads}")
        assert ended.code == exits.USAGE
        assert f"--threads is {threads!r} and has to be a number from 1 to 1024" in ended.sentence


def test_what_is_missing_on_the_command_line_is_named(place: Place) -> None:
    ended = neuronmodel("shard", "--model", place.model)
    assert ended.code == exits.USAGE
    assert "required: --neuron-config, --output" in ended.err
    ended = neuronmodel(*place.shard[:-1], "")
    assert ended.code == exits.USAGE
    assert "cannot be empty" in ended.err


@pytest.fixture
def small_volume(place: Place) -> Iterator[Path]:
    """A file system in memory with less room than the shards need."""
    with volume_in_memory(place.root / "volume", 65536) as directory:
        yield directory


def remount(volume: Path, option: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{option}", str(volume)], check=True)


def test_a_volume_that_is_too_small_is_named_with_both_figures(place: Place, small_volume: Path) -> None:
    output = small_volume / "a" / "b"
    ended = neuronmodel("shard", *place.source, "--output", output)
    assert ended.code == exits.NO_SPACE
    plan = json.loads(here("plan", *place.source, "--output", output, "--json", "--no-measure").out)
    assert plan["output"]["fits"] is False
    assert f"{plan['output']['bytes_written']:,} bytes are needed" in ended.sentence
    assert f"and {plan['output']['free_bytes']:,} are free" in ended.sentence
    assert list(small_volume.iterdir()) == []
    text = here("plan", *place.source, "--output", output, "--no-measure").out
    assert "the shards do not fit" in text


def test_a_set_in_memory_and_what_was_there_before_on_a_full_volume(place: Place, small_volume: Path) -> None:
    remount(small_volume, "size=1m")
    shard = ("shard", *place.source, "--output", small_volume / "set")
    assert here(*shard).code == 0
    before = everything(small_volume)
    remount(small_volume, "size=300k")
    change_model(place, hidden_act="gelu")
    assert here(*shard).code == exits.NO_SPACE
    assert everything(small_volume) == before


def test_a_volume_that_may_not_be_written_is_named(place: Place, small_volume: Path) -> None:
    remount(small_volume, "ro")
    for output in (small_volume, small_volume / "set"):
        ended = neuronmodel("shard", *place.source, "--output", output)
        assert ended.code == exits.TRANSIENT
        assert f"{small_volume} cannot be written: Read-only file system" in ended.sentence.replace("/weights", "")


def test_what_may_not_be_read_is_named(place: Place) -> None:
    weights_of(place).chmod(0)
    ended = neuronmodel(*place.shard, prefix=MODES_COUNT)
    assert ended.code == exits.TRANSIENT
    assert f"{weights_of(place)} cannot be read: Permission denied" in ended.sentence
    assert not place.output.exists()
    place.config.chmod(0)
    ended = neuronmodel(*place.shard, prefix=MODES_COUNT)
    assert f"{place.config} cannot be read: Permission denied" in ended.sentence


def test_what_may_not_be_written_is_named(place: Place) -> None:
    place.output.mkdir(0o555)
    ended = neuronmodel(*place.shard, prefix=MODES_COUNT)
    assert ended.code == exits.TRANSIENT
    assert f"cannot be written: Permission denied. Check the volume, and that user {os.geteuid()}" in ended.sentence
    assert place.listing() == []
    place.output.chmod(0)
    ended = neuronmodel(*place.shard, prefix=MODES_COUNT)
    place.output.chmod(0o755)
    assert f"{place.output} cannot be read: Permission denied" in ended.sentence


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129)])
@pytest.mark.parametrize("there", [False, True], ids=["nothing_there", "a_set_there"])
def test_a_signal_ends_it_and_leaves_what_was_there(number: int, code: int, there: bool, place: Place) -> None:
    if there:
        place.sharded()
        place.configure(tp_degree=2)
    before = everything(place.root)
    with place.paused() as process:
        process.send_signal(number)
        out, err = process.communicate()
    assert process.returncode == code
    assert (out, len(err.splitlines())) == (b"", 1)
    assert b"neuronmodel shard: Stopped by SIG" in err
    assert everything(place.root) == before


def test_a_signal_while_classes_are_made_is_a_signal(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        try:
            signal.raise_signal(signal.SIGTERM)
        except BaseException as stopped:
            raise RuntimeError("Error calling __set_name__") from stopped

    monkeypatch.setattr("neuronmodel_worker.commands.shard.claimed", interrupted)
    ended = here(*place.shard)
    assert ended.code == 143
    assert "Stopped by SIGTERM" in ended.sentence


def test_a_killed_run_leaves_no_final_name_and_the_next_clears_up(place: Place) -> None:
    with place.paused() as process:
        assert here("verify", place.output).code == exits.TRANSIENT
        process.kill()
    assert not [name for name in place.listing() if not name.endswith(".partial") and name != "weights"]
    assert "weights" in place.listing()
    ended = here("verify", place.output)
    assert ended.code == exits.BAD_INPUT
    assert "holds neither manifest.json nor rank files" in ended.sentence
    place.configure(tp_degree=2)
    assert place.sharded().err == ""
    assert place.listing() == files(range(2))


def test_a_killed_run_leaves_the_set_that_was_there(place: Place) -> None:
    place.sharded()
    place.configure(tp_degree=2)
    with place.paused() as process:
        process.kill()
    assert here("verify", "--full", place.output).code == 0
    place.sharded()
    assert place.listing() == files(range(2))


def test_a_disk_that_fails_at_the_last_sync_leaves_the_set_that_was_there(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.sharded()
    before = everything(place.output)
    place.configure(tp_degree=2)
    fsync, synced = os.fsync, list[int]()

    def failing(descriptor: int) -> None:
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            synced.append(descriptor)
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        fsync(descriptor)

    monkeypatch.setattr("os.fsync", failing)
    ended = here(*place.shard)
    assert ended.code == exits.TRANSIENT
    assert "cannot be written: Input/output error" in ended.sentence
    assert synced
    assert everything(place.output) == before


def test_a_disk_that_is_full_for_the_manifest_leaves_the_set_that_was_there(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.sharded()
    before = everything(place.output)
    place.configure(tp_degree=2)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("neuronmodel_worker.commands.output_folder._write", full)
    ended = here(*place.shard)
    assert ended.code == exits.NO_SPACE
    assert everything(place.output) == before


def test_what_is_not_foreseen_is_one_line_too(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise KeyError("surprise")

    monkeypatch.setattr("neuronmodel_worker.commands.shard.claimed", fail)
    ended = here(*place.shard)
    assert ended.code == exits.FAILED
    assert "KeyError in test_faults.py, line" in ended.sentence
    assert "'surprise'" in ended.sentence
    assert "NEURONMODEL_DEBUG=1" in ended.sentence
    monkeypatch.setenv("NEURONMODEL_DEBUG", "1")
    assert "Traceback" in here(*place.shard).err


def test_a_reader_that_goes_away_is_no_failure(place: Place) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    command = ["sh", "-c", neuronmodel_as_text(("plan", *place.source, "--no-measure"))]
    ended = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writing)
    assert (ended.returncode, ended.stderr) == (128 + signal.SIGPIPE, "")


def test_a_result_that_cannot_be_written_is_reported(place: Place) -> None:
    with Path("/dev/full").open("w") as full:
        command = ["sh", "-c", neuronmodel_as_text(("plan", *place.source, "--no-measure"))]
        ended = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert ended.returncode == exits.TRANSIENT
    assert "Standard output cannot be written: No space left" in ended.stderr
