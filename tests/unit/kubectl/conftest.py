"""A kubectl that answers from a table, and says what it was asked."""

import json
import os
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from neuronmodel_api import names
from neuronmodel_kubectl import cli, models
from neuronmodel_kubectl.cluster import ENV_KUBECTL
from tests.builders import neuron_model

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
PROGRAM = """#!{python}
import json, sys
asked = sys.argv[1:]
with open({calls!r}, "a") as calls:
    calls.write(json.dumps([asked, "" if sys.stdin.isatty() else sys.stdin.read()]) + "\\n")
with open({answers!r}) as file:
    answers = json.load(file)
for words, answer in answers:
    if all(word in asked for word in words):
        sys.stdout.buffer.write(answer["prints"].encode(errors="surrogateescape"))
        sys.stderr.write(answer["complains"])
        sys.exit(answer["code"])
sys.stderr.write('Error from server (Forbidden): ' + " ".join(asked) + ' is forbidden\\n')
sys.exit(1)
"""


class FakeKubectl:
    """The first answer whose words are all in the command is given; without one, kubectl refuses."""

    def __init__(self, folder: Path) -> None:
        self.program = folder / "kubectl"
        self._answers, self._calls = folder / "answers.json", folder / "calls"
        self._table: list[tuple[list[str], dict[str, Any]]] = []
        text = PROGRAM.format(python=sys.executable, calls=str(self._calls), answers=str(self._answers))
        self.program.write_text(text)
        self.program.chmod(0o755)
        self._answers.write_text("[]")

    def answers(self, *words: str, prints: str = "", complains: str = "", code: int = 0) -> None:
        self._table.append((list(words), {"prints": prints, "complains": complains, "code": code}))
        self._answers.write_text(json.dumps(self._table))

    def has(self, *words: str, answer: Any) -> None:
        self.answers(*words, prints=json.dumps(answer))

    def has_model(self, model: dict[str, Any]) -> None:
        self.has("get", "neuronmodels.neuronmodel.dev", model["metadata"]["name"], answer=model)

    @property
    def calls(self) -> list[list[str]]:
        return [json.loads(line)[0] for line in self._calls.read_text().splitlines()] if self._calls.exists() else []

    @property
    def inputs(self) -> list[str]:
        return [json.loads(line)[1] for line in self._calls.read_text().splitlines()]


@pytest.fixture
def kubectl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeKubectl:
    folder = tmp_path / "kubectl"
    folder.mkdir()
    fake = FakeKubectl(folder)
    monkeypatch.setenv(ENV_KUBECTL, str(fake.program))
    monkeypatch.delenv("COLUMNS", raising=False)
    return fake


@pytest.fixture(autouse=True)
def time_stands_still(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    real = models.now
    for module in [module for name, module in sys.modules.items() if name.startswith("neuronmodel_kubectl")]:
        if getattr(module, "now", None) is real:
            monkeypatch.setattr(module, "now", lambda: NOW)
    yield
    os.environ.pop("NO_COLOR", None)


def run(*arguments: str) -> int:
    """Returns the exit code, that of wrong arguments too."""
    try:
        return cli.main(arguments)
    except SystemExit as end:
        return int(end.code or 0)


def stamp(seconds_ago: float) -> str:
    return (NOW - timedelta(seconds=seconds_ago)).strftime("%Y-%m-%dT%H:%M:%SZ")


def condition(kind: str, status: str, reason: str, message: str = "") -> dict[str, Any]:
    return {
        "type": kind,
        "status": status,
        "reason": reason,
        "message": message,
        "lastTransitionTime": stamp(300),
        "observedGeneration": 1,
    }


def a_model(name: str = "smol", spec: dict[str, Any] | None = None, **status: Any) -> dict[str, Any]:
    made = neuron_model(name).on_cpu().build()
    made["metadata"] |= {
        "namespace": "demo",
        "uid": f"uid-{name}",
        "generation": 1,
        "creationTimestamp": stamp(3600),
    }
    made["spec"] |= spec or {}
    made["status"] = {"observedGeneration": 1} | status if status else {}
    return made


def a_phase(name: str, seconds: float, ago: float = 100, **fields: Any) -> dict[str, Any]:
    return {
        "stage": "Serve",
        "name": name,
        "startedAt": stamp(ago),
        "milliseconds": round(seconds * 1000),
        **fields,
    }


def a_start(*phases: dict[str, Any], outcome: str = "Ready", ago: float = 100, **fields: Any) -> dict[str, Any]:
    start = {"id": "uid/0", "cause": "Created", "outcome": outcome, "startedAt": stamp(ago), "phases": list(phases)}
    total = {} if outcome == "Running" else {"totalMilliseconds": sum(phase["milliseconds"] for phase in phases)}
    return start | total | fields


def a_pod(name: str, component: str = "serve", ago: float = 100, restarts: int = 0, **fields: Any) -> dict[str, Any]:
    labels = {names.LABEL_MODEL: "smol", names.LABEL_COMPONENT: component}
    container = {"name": names.CONTAINER, "restartCount": restarts, "state": {"running": {}}}
    return {
        "metadata": {"name": name, "uid": f"uid-{name}", "labels": labels, "creationTimestamp": stamp(ago)},
        "spec": {"containers": [{"name": names.CONTAINER}]},
        "status": {"phase": "Running", "containerStatuses": [container]},
        **fields,
    }
