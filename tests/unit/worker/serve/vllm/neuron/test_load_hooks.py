"""The plugin: nothing happens without a worker, nothing heavy is imported early, and nothing makes vLLM compile."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from neuronmodel_api.config import WorkerConfig
from neuronmodel_worker.failures import ArtifactDamaged
from neuronmodel_worker.serve.vllm.environment import ENV_ENGINE, ENV_INSTRUCTION, plugin_is_installed
from neuronmodel_worker.serve.vllm.imports import when_imported
from neuronmodel_worker.serve.vllm.instruction import Instruction
from neuronmodel_worker.serve.vllm.neuron.load_hooks import LoadHooks, make_load_hooks
from neuronmodel_worker.serve.vllm.relay import LoadHookFailed


def test_vllm_finds_it_by_the_metadata_of_the_package() -> None:
    assert plugin_is_installed()


def in_a_new_process(program: str, **environment: str) -> Any:
    given = {**os.environ, **environment}
    done = subprocess.run([sys.executable, "-c", program], env=given, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


CALLED = """
import json, sys
before = len(sys.meta_path)
from neuronmodel_worker.vllm_plugin import register
register(); register()
heavy = [name for name in ("torch", "numpy", "pydantic", "aiohttp", "xxhash") if name in sys.modules]
print(json.dumps([len(sys.meta_path) - before, heavy]))
"""


def test_without_a_worker_it_does_nothing() -> None:
    assert in_a_new_process(CALLED) == [0, []]


@pytest.mark.parametrize("engine", ["Neuron", "CPU"])
def test_with_one_it_waits_once_for_what_loads_a_model_and_imports_nothing(tmp_path: Path, engine: str) -> None:
    given = {ENV_INSTRUCTION: str(tmp_path / "instruction"), ENV_ENGINE: engine}
    assert in_a_new_process(CALLED, **given) == [1, []]


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    package = tmp_path / "imported_later"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "deep.py").write_text("VALUE = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    yielded = "imported_later.deep"
    for name in (yielded, "imported_later"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return yielded


def test_a_module_is_announced_when_it_is_imported_and_not_before(module: str) -> None:
    seen: list[ModuleType] = []
    finders = list(sys.meta_path)
    when_imported(module, seen.append)
    assert seen == []
    imported = __import__(module, fromlist=["VALUE"])
    assert [each.VALUE for each in seen] == [1]
    assert seen == [imported]
    assert imported.__spec__ is not None
    assert imported.__spec__.loader is imported.__loader__
    assert sys.meta_path == finders


def test_a_module_that_is_already_imported_is_announced_at_once(module: str) -> None:
    __import__(module)
    seen: list[ModuleType] = []
    when_imported(module, seen.append)
    assert [each.VALUE for each in seen] == [1]


class Application:
    """As NxD Inference's class of all applications; `weights` is its own way to get them."""

    def __init__(self, weights: Callable[[], None] = lambda: None) -> None:
        self._weights = weights
        self.calls: list[str] = []

    def load(self, path: str) -> str:
        self.calls.append("load")
        self.load_weights(path, start_rank_id=None, local_ranks_size=None)
        self.warmup()
        return "loaded"

    def load_weights(self, path: str, start_rank_id: int | None = None, local_ranks_size: int | None = None) -> None:
        self.calls.append("load_weights")
        self._weights()

    def warmup(self) -> None:
        self.calls.append("warmup")

    def compile(self, path: str) -> None:
        raise AssertionError("compiled")

    @classmethod
    def save_quantized_state_dict(cls, path: str, config: object) -> None:
        raise AssertionError("quantized")


@pytest.fixture
def load_hooks(tmp_path: Path) -> LoadHooks:
    config = WorkerConfig(namespace="team", name="small", uid="u", spec_hash="h")
    return make_load_hooks(Instruction(config=config, relay=tmp_path / "relay.jsonl"))


@pytest.fixture
def application(load_hooks: LoadHooks, monkeypatch: pytest.MonkeyPatch) -> type[Application]:
    """One that gets its weights by itself."""

    class Hooked(Application):
        load = Application.load
        load_weights = Application.load_weights
        warmup = Application.warmup
        compile = Application.compile
        save_quantized_state_dict = Application.save_quantized_state_dict

    monkeypatch.setattr(load_hooks, "_weights", lambda: None)
    load_hooks.install(Hooked)
    return Hooked


def relayed_events(tmp_path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (tmp_path / "relay.jsonl").read_text().splitlines()]


def test_the_library_s_own_way_is_left_alone_and_its_phases_are_reported(
    application: type[Application], tmp_path: Path
) -> None:
    loaded = application()
    assert loaded.load("/view/") == "loaded"
    assert loaded.calls == ["load", "load_weights", "warmup"]
    begun = [each["name"] for each in relayed_events(tmp_path) if each["event"] == "begin"]
    assert begun == ["GraphLoaded", "DeviceLoaded", "WarmedUp", "ServerStarted"]


@pytest.mark.parametrize(
    "error",
    [
        FileNotFoundError("no rank file"),
        ValueError("odd"),
        UnicodeDecodeError("utf-8", b"", 0, 1, "odd"),
        KeyError("x"),
    ],
)
def test_no_failure_looks_like_missing_artifacts(
    application: type[Application], tmp_path: Path, error: Exception
) -> None:
    def fail() -> None:
        raise error

    with pytest.raises(RuntimeError) as caught:
        application(fail).load("/view/")
    assert not isinstance(caught.value, FileNotFoundError | ValueError)
    errors = [each["text"] for each in relayed_events(tmp_path) if each["event"] == "error"]
    assert len(errors) == 1
    assert type(error).__name__ in errors[0]


def test_a_failure_of_ours_is_reported_once_with_its_reason(
    load_hooks: LoadHooks, application: type[Application], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def damaged() -> None:
        raise ArtifactDamaged(Path("/artifacts/shards/x"), "a byte is another")

    monkeypatch.setattr(load_hooks, "_weights", damaged)
    with pytest.raises(LoadHookFailed, match="a byte is another"):
        application().load("/view/")
    assert [each["reason"] for each in relayed_events(tmp_path) if each["event"] == "failure"] == ["ArtifactDamaged"]


def test_nothing_is_compiled_in_a_serving_pod(application: type[Application], tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="would have compiled it anew"):
        application().compile("/view/")
    assert [(each["event"], each["reason"]) for each in relayed_events(tmp_path)] == [("failure", "ServerEnded")]


def test_nothing_is_quantized_in_a_serving_pod(application: type[Application]) -> None:
    """As the loader would do with a quantized model before it compiles."""

    class OfAFamily(application):  # type: ignore[valid-type, misc]
        pass

    with pytest.raises(RuntimeError, match="would have compiled it anew"):
        OfAFamily.save_quantized_state_dict("/models/m", object())
