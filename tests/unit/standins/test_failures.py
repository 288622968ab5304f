"""Failures that may be asked for: their messages are the public ones, at the place where they come in reality."""

from pathlib import Path
from typing import Any

import pytest

from tests.unit.standins.conftest import Build, Importer


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("compiled")


@pytest.fixture
def compiled(source: Path, build: Build, once: Path) -> Path:
    """The first test that asks for it compiles it."""
    if not (once / "model.pt").exists():
        build(source).compile(str(once))
    return once


def fail(monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    monkeypatch.setenv("NEURON_STANDIN_FAIL", what)


def test_without_a_device_nothing_is_loaded(
    source: Path, build: Build, compiled: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(RuntimeError, match="cannot determine the number of available NeuronCores"):
        build(source).load(str(compiled))
    assert "No neuron device available" in capfd.readouterr().err


@pytest.mark.usefixtures("devices")
def test_cores_are_busy_as_often_as_asked_for(
    source: Path, build: Build, compiled: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    fail(monkeypatch, "cores-busy:2")
    for _ in range(2):
        with pytest.raises(RuntimeError, match="Runtime could not be initialized"):
            build(source).load(str(compiled))
        assert "not available - Requested:3 Available:0" in capfd.readouterr().err  # and not in the exception
    build(source).load(str(compiled))


@pytest.mark.usefixtures("devices")
@pytest.mark.parametrize(
    ("what", "raised", "message"),
    [
        ("device-memory", 'nrt_tensor_allocate status=4 message="Allocation Failure"', "DEVICE memory"),
        ("host-memory", "status=11", ""),
        ("neff-version", "status=10", "NEFF version mismatch"),
        ("logical-cores", "status=2", "Logical NeuronCore"),
        ("hardware", "status=1201", "HBM"),
        ("runtime-unknown", "status=1 ", ""),
    ],
)
def test_loading_fails(
    source: Path,
    build: Build,
    compiled: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    what: str,
    raised: str,
    message: str,
) -> None:
    fail(monkeypatch, what)
    with pytest.raises(RuntimeError) as error:
        build(source).load(str(compiled))
    assert raised in str(error.value)
    assert message in capfd.readouterr().err


@pytest.mark.usefixtures("devices")
def test_logical_cores_that_differ_from_the_runtimes_fail_by_themselves(
    source: Path, build: Build, compiled: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NEURON_RT_VIRTUAL_CORE_SIZE", "1")
    with pytest.raises(RuntimeError, match="status=2"):
        build(source).load(str(compiled))


def test_too_few_cores_fail_by_themselves(
    source: Path, build: Build, compiled: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NEURON_STANDIN_DEVICES", "1")
    monkeypatch.setenv("NEURON_RT_NUM_CORES", "2")
    with pytest.raises(RuntimeError, match="status=9"):
        build(source).load(str(compiled))


@pytest.mark.usefixtures("devices")
def test_a_failing_warm_up_is_only_warned_about(
    source: Path, build: Build, compiled: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    fail(monkeypatch, "warmup")
    build(source).load(str(compiled))
    assert "warm-up of context_encoding_model is ignored" in caplog.text


@pytest.mark.parametrize(
    ("what", "raised", "message"),
    [
        ("compiler-70", "neuronx-cc failed with 70", "[F134]"),
        ("compiler-f137", "neuronx-cc failed with 70", "[F137] neuronx-cc was forcibly killed"),
        ("compiler-killed", "neuronx-cc failed with -9", ""),
        ("compiler-1", "neuronx-cc failed with 1", "NCC_EVRF029"),
    ],
)
def test_the_compiler_fails(
    source: Path,
    build: Build,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    what: str,
    raised: str,
    message: str,
) -> None:
    fail(monkeypatch, what)
    with pytest.raises(RuntimeError, match=raised):
        build(source).compile(str(tmp_path / "compiled"))
    assert message in capfd.readouterr().err
    assert not (tmp_path / "compiled/model.pt").exists()


def test_the_compiler_fails_once(
    source: Path, build: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, called: Any, neuron: Importer
) -> None:
    fail(monkeypatch, "compiler-70:1")
    with pytest.raises(RuntimeError, match="70"):
        build(source).compile(str(tmp_path / "compiled"))
    build(source).compile(str(tmp_path / "compiled"))
    assert (tmp_path / "compiled/model.pt").exists()
