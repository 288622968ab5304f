"""Commands of `kubectl nm` that do something: logs, retry, restart, plan."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from neuronmodel_api import names
from tests.unit.kubectl.conftest import FakeKubectl, a_model, a_pod, run

ENV = {"NEURONMODEL_POD_UID": ""}


@pytest.mark.parametrize(
    ("arguments", "pod"),
    [
        ((), "new"),
        (("--prepare",), "prepare-2"),
        (("--pod", "old"), "old"),
    ],
    ids=str,
)
def test_the_log_is_that_of_the_pod_that_matters(kubectl: FakeKubectl, arguments: tuple[str, ...], pod: str) -> None:
    kubectl.has_model(a_model())
    pods = [
        a_pod("old", ago=90),
        a_pod("new", ago=10),
        a_pod("prepare-1", "prepare", 95),
        a_pod("prepare-2", "prepare", 93),
    ]
    kubectl.has("pods", answer={"items": pods})
    kubectl.answers("logs", prints="a line\n")
    # It replaces this process, so that it has one of its own.
    command = [sys.executable, "-m", "neuronmodel_kubectl", "logs", "smol", "--tail", "5", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "a line\n"
    assert kubectl.calls[-1] == ["logs", pod, f"--container={names.CONTAINER}", "--tail=5", "--namespace", "demo"]


def test_before_a_worker_serves_the_log_is_that_of_prepare(kubectl: FakeKubectl) -> None:
    kubectl.has_model(a_model())
    kubectl.has("pods", answer={"items": [a_pod("prepare-1", "prepare")]})
    kubectl.answers("logs", prints="")
    subprocess.run([sys.executable, "-m", "neuronmodel_kubectl", "logs", "smol", "-f"], check=True)
    assert kubectl.calls[-1][:3] == ["logs", "prepare-1", f"--container={names.CONTAINER}"]
    assert "--follow" in kubectl.calls[-1]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [((), "has no pod at all"), (("--prepare",), "has no pod that prepares"), (("--pod", "x"), "x is no pod of smol")],
    ids=str,
)
def test_where_there_is_no_pod_it_says_so(
    kubectl: FakeKubectl, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], says: str
) -> None:
    kubectl.has_model(a_model())
    kubectl.has("pods", answer={"items": []})
    assert run("logs", "smol", *arguments) == 1
    assert says in capsys.readouterr().err


@pytest.mark.parametrize(("command", "annotation"), [("retry", "retry"), ("restart", "restart")])
def test_an_annotation_gets_a_new_value_each_time(kubectl: FakeKubectl, command: str, annotation: str) -> None:
    kubectl.answers("annotate")
    assert run(command, "smol", "-n", "demo") == 0
    ((verb, kind, name, given, overwrite, *_),) = kubectl.calls
    assert (verb, kind, name, overwrite) == ("annotate", "neuronmodels.neuronmodel.dev", "smol", "--overwrite")
    assert given.startswith(f"neuronmodel.dev/{annotation}=2026-03-01T12:00:00")


def test_a_model_that_cannot_be_annotated_is_told_in_kubectls_words(
    kubectl: FakeKubectl, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("retry", "smol") == 1
    assert "is forbidden" in capsys.readouterr().err


def manifest(kubectl: FakeKubectl, tmp_path: Path, *models: dict[str, object]) -> Path:
    """kubectl's own parser is played: it prints what the file is, as JSON."""
    file = tmp_path / "model.yaml"
    file.write_text("kind: NeuronModel\n")
    kubectl.answers("create", "--dry-run=client", prints="\n".join(json.dumps(model) for model in models))
    return file


def test_a_plan_is_that_of_the_specs_own_flags(
    kubectl: FakeKubectl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def played(command: list[str], *, input: str, text: bool, check: bool) -> subprocess.CompletedProcess[str]:
        asked.append((command[2:], json.loads(input)))
        return subprocess.CompletedProcess(command, 4)

    file = manifest(kubectl, tmp_path, {"kind": "Namespace"}, a_model(spec={"engine": "Neuron"}))
    monkeypatch.setattr(subprocess, "run", _only(subprocess.run, played))
    assert run("plan", "--model", "hf://org/name", "-f", str(file), "-o", "json") == 4
    ((command, fields),) = asked
    expected = ["neuronmodel_worker", "plan", "--model=hf://org/name", "--neuron-config=-"]
    assert command == [*expected, "--instance-type=trn2.48xlarge", "--json"]
    assert (fields["tp_degree"], fields["logical_nc_config"]) == (4, 2)


def _only(real: object, played: object) -> object:
    """`played` for `neuronmodel plan`, and the real one for kubectl."""

    def choose(command: list[str], **options: object) -> object:
        return (played if "neuronmodel_worker" in command else real)(command, **options)  # type: ignore[operator]

    return choose


@pytest.mark.parametrize(
    ("models", "says", "code"),
    [
        ([], "has 0 NeuronModels", 2),
        ([a_model(), a_model("b")], "has 2 NeuronModels", 2),
        ([{"kind": "NeuronModel", "spec": {"engine": "CPU"}}], "at spec.model, Field required", 1),
    ],
    ids=["none", "two", "without a model"],
)
def test_a_file_without_one_neuronmodel_is_refused(
    kubectl: FakeKubectl,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    models: list[dict[str, object]],
    says: str,
    code: int,
) -> None:
    file = manifest(kubectl, tmp_path, *models)
    assert run("plan", "--model", "m", "-f", str(file)) == code
    assert says in capsys.readouterr().err


def test_a_file_that_is_not_there_is_named(
    kubectl: FakeKubectl, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert run("plan", "--model", "m", "-f", str(tmp_path / "none.yaml")) == 1
    assert "none.yaml can't be read" in capsys.readouterr().err
