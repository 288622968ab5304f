"""Compiling in a child process: what it is given, what it leaves, and what is reported about its failures."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from neuronmodel_api import exits
from neuronmodel_worker.engines import NoEngine
from neuronmodel_worker.engines.nxdi import compilation
from neuronmodel_worker.engines.nxdi.child_process import KEPT_BYTES, ChildResult
from neuronmodel_worker.engines.nxdi.compiled import read_compiled
from neuronmodel_worker.engines.nxdi.neuron_failures import (
    CompilerFailed,
    CompilerOutOfMemory,
    HostMemoryExhausted,
    ModelTypeWithoutApplication,
    NeuronRuntimeFailed,
)
from neuronmodel_worker.failures import WorkerFailure
from tests.paths import NEURON_STAND_INS, PROJECT
from tests.unit.worker.engines.models import shard, write_model
from tests.unit.worker.engines.nxdi.conftest import SMALL, Calls, MakeEngine, no_progress


@pytest.fixture
def source(tmp_path: Path) -> Path:
    write_model(tmp_path / "source")
    return tmp_path / "source"


def compile_model(make_engine: MakeEngine, source: Path, **settings: Any) -> Path:
    engine, directory = make_engine(source, SMALL, **settings), source.parent / "compiled"
    directory.mkdir()
    engine.compile(shard(source, SMALL)[0], SMALL, directory, no_progress)
    return directory


def log_of(work: Path) -> str:
    (log,) = (work / "artifacts" / "logs").iterdir()
    return log.read_text()


def test_a_real_child_compiles_away_from_the_system_s_folders(
    make_engine: MakeEngine, source: Path, recorded: Calls, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("NEURON_PLATFORM_TARGET_OVERRIDE")
    monkeypatch.delenv("BASE_COMPILE_WORK_DIR")
    monkeypatch.setenv("PYTHONPATH", f"{NEURON_STAND_INS}:{PROJECT}")
    compiled = compile_model(make_engine, source)
    assert {file.name for file in compiled.iterdir()} == {"model.pt", "neuron_config.json", "neuronmodel.json"}
    (call,) = recorded("compile")
    assert call["pid"] != os.getpid()
    assert call["environment"]["NEURON_PLATFORM_TARGET_OVERRIDE"] == "trn2"
    for name in ("BASE_COMPILE_WORK_DIR", "NEURON_COMPILE_CACHE_URL"):
        assert call["environment"][name].startswith(str(tmp_path / "scratch"))
    assert not list((tmp_path / "scratch").glob("nxdi-*"))


@pytest.mark.usefixtures("in_process")
def test_the_compiled_set_names_no_checkpoint_and_no_strategy(make_engine: MakeEngine, source: Path) -> None:
    compiled = read_compiled(compile_model(make_engine, source))
    assert str(source) not in json.dumps(compiled.config)
    assert not {"_name_or_path"} & compiled.config.keys()
    assert not {"save_sharded_checkpoint", "skip_sharding"} & compiled.config["neuron_config"].keys()
    assert compiled.config["neuron_config"]["tp_degree"] == 3


@pytest.mark.usefixtures("in_process")
def test_it_says_what_every_rank_must_hold(make_engine: MakeEngine, source: Path) -> None:
    plan, _ = shard(source, SMALL)
    expected = read_compiled(compile_model(make_engine, source)).expected
    assert expected.forms == {tensor.name: (tensor.dtype, tensor.shape) for tensor in plan.tensors}
    assert expected.ranks == range(3)
    assert set(expected.rank_tensors) == set(plan.rank_tensors) != set()


@pytest.mark.usefixtures("in_process")
def test_no_shards_are_written_while_compiling(make_engine: MakeEngine, source: Path, called: Calls) -> None:
    compile_model(make_engine, source)
    assert [(call["save"], call["skip"]) for call in called("shard_weights")] == [(False, True)]
    assert called("shard_checkpoint") == []


@pytest.mark.usefixtures("in_process")
def test_a_type_that_the_library_lacks_ends_in_its_own_reason(make_engine: MakeEngine, source: Path) -> None:
    with pytest.raises(ModelTypeWithoutApplication, match="'phi9'"):
        compile_model(make_engine, source, model_type="phi9")


class Children:
    """Children that end as configured, one after the other."""

    def __init__(self, *ends: tuple[int, str]) -> None:
        self.ends = list(ends)
        self.found: list[list[str]] = []

    def __call__(self, instruction: Mapping[str, Any], environment: Mapping[str, str], log_file: Path) -> ChildResult:
        directory = Path(instruction["directory"])
        self.found.append(sorted(file.name for file in directory.iterdir()))
        (directory / "left-behind").mkdir()
        code, output = self.ends.pop(0)
        with log_file.open("a") as log:
            log.write(output)
        return ChildResult(code, output)


def failing(
    make_engine: MakeEngine, source: Path, monkeypatch: pytest.MonkeyPatch, *ends: tuple[int, str]
) -> tuple[WorkerFailure, Children]:
    children = Children(*ends)
    monkeypatch.setattr(compilation, "run_child", children)
    with pytest.raises(WorkerFailure) as failure:
        compile_model(make_engine, source)
    return failure.value, children


EXIT_70 = (1, "An Internal Compiler Error has occurred\nRuntimeError: neuronx-cc failed with 70\n")


def test_exit_70_is_tried_once_more_from_an_empty_folder(
    make_engine: MakeEngine, source: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    failure, children = failing(make_engine, source, monkeypatch, EXIT_70, EXIT_70)
    assert children.found == [[], []]
    assert isinstance(failure, CompilerFailed)
    assert failure.exit_code == exits.BAD_INPUT
    assert "failed twice" in str(failure)
    assert "neuronx-cc failed with 70" in str(failure)
    assert log_of(tmp_path) == EXIT_70[1] * 2
    assert str(next((tmp_path / "artifacts/logs").iterdir())) in str(failure)


@pytest.mark.usefixtures("in_process")
def test_an_exit_70_that_passes_leaves_its_log(
    make_engine: MakeEngine, source: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, called: Calls
) -> None:
    monkeypatch.setenv("NEURON_STANDIN_FAIL", "compiler-70:1")
    compiled = compile_model(make_engine, source)
    assert (compiled / "model.pt").exists()
    assert len(called("compile")) == 2
    assert "neuronx-cc failed with 70" in log_of(tmp_path)


@pytest.mark.parametrize(
    "text",
    [
        "RuntimeError: neuronx-cc failed with 70",
        "subprocess.CalledProcessError: Command '['neuronx-cc']' returned non-zero exit status 70.",
        "Subcommand returned with exitcode=70",
        "Compiler exit code 70",
    ],
)
def test_every_wording_of_exit_70_is_known(text: str) -> None:
    assert compilation._was_exit_70(ChildResult(1, f"{text}\n"))


@pytest.mark.parametrize("text", ["failed with 1", "exit status 701", "exit code 1 after 70 s", "version 2.70.1"])
def test_other_numbers_are_not_70(text: str) -> None:
    assert not compilation._was_exit_70(ChildResult(1, f"{text}\n"))


@pytest.mark.parametrize(
    "end",
    [
        (-9, "compiling\n"),
        (1, "MemoryError\n"),
        (1, "terminate called after throwing an instance of 'std::bad_alloc'\n"),
        (1, "[F137] neuronx-cc was forcibly killed\nRuntimeError: neuronx-cc failed with 70\n"),
        (1, "RuntimeError: neuronx-cc failed with -9\n"),
        (1, "Command returned with exit code 137\n"),
    ],
)
def test_out_of_memory_is_not_tried_again(
    make_engine: MakeEngine, source: Path, monkeypatch: pytest.MonkeyPatch, end: tuple[int, str]
) -> None:
    failure, children = failing(make_engine, source, monkeypatch, end)
    assert isinstance(failure, CompilerOutOfMemory)
    assert len(children.found) == 1


def test_another_failure_of_the_compiler_is_final_at_once(
    make_engine: MakeEngine, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failure, children = failing(make_engine, source, monkeypatch, (1, "[NCC_EVRF029] sort is not supported\n"))
    assert isinstance(failure, CompilerFailed)
    assert "[NCC_EVRF029] sort is not supported" in str(failure)
    assert len(children.found) == 1


def test_an_sdk_that_cannot_be_imported_is_no_engine(
    make_engine: MakeEngine, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failure, _ = failing(make_engine, source, monkeypatch, (1, "ImportError: libneuronpjrt.so: cannot open\n"))
    assert isinstance(failure, NoEngine)
    assert "libneuronpjrt.so" in str(failure)


def test_a_full_volume_is_reported_as_one(
    make_engine: MakeEngine, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compilation, "run_child", Children((1, "OSError: [Errno 28] No space left on device\n")))
    with pytest.raises(OSError, match="No space left on device"):
        compile_model(make_engine, source)


def test_the_kept_log_is_bounded(
    make_engine: MakeEngine, source: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    failing(make_engine, source, monkeypatch, (1, "x" * (KEPT_BYTES + 10) + "\nlast\n"))
    kept = log_of(tmp_path)
    assert len(kept) == KEPT_BYTES
    assert kept.endswith("last\n")


def shard_natively(make_engine: MakeEngine, source: Path) -> Path:
    engine, directory = make_engine(source, SMALL), source.parent / "staged"
    directory.mkdir()
    engine.shard(shard(source, SMALL)[0], SMALL, directory, no_progress)
    return directory


@pytest.mark.usefixtures("in_process")
def test_the_library_shards_into_the_folder(make_engine: MakeEngine, source: Path) -> None:
    weights = shard_natively(make_engine, source) / "weights"
    names = [f"tp{rank}_sharded_checkpoint.safetensors" for rank in range(3)]
    assert sorted(file.name for file in weights.iterdir()) == names


@pytest.mark.parametrize(
    ("end", "kind"),
    [
        ((-9, ""), HostMemoryExhausted),
        ((1, "KeyError: 'q_proj'\n"), NeuronRuntimeFailed),
    ],
)
def test_failures_of_the_librarys_own_sharding_are_reported(
    make_engine: MakeEngine,
    source: Path,
    monkeypatch: pytest.MonkeyPatch,
    end: tuple[int, str],
    kind: type[WorkerFailure],
) -> None:
    monkeypatch.setattr(compilation, "run_child", Children(end))
    with pytest.raises(kind):
        shard_natively(make_engine, source)
