"""The stand-in as another process uses it: its command line and the control API."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.paths import PROJECT
from tests.standins.hub import Hub
from tests.unit.standins.hub.asking import Answer, ask
from tests.unit.standins.hub.conftest import REPOSITORY, WEIGHTS, file_url, write_files


def post(hub: Hub, where: str, method: str = "POST", **given: Any) -> Answer:
    return ask(f"{hub.control}/{where}", method, body=json.dumps(given).encode())


def told(hub: Hub, path: str) -> Any:
    return ask(f"{hub.control}/{path}").json


def test_requests_are_told_with_counters_and_forgotten(hub: Hub) -> None:
    ask(file_url(hub, WEIGHTS))
    ask(file_url(hub, "missing"), "HEAD")
    answered = told(hub, "requests")
    assert answered["counters"] == {"hub GET 302": 1, "hub HEAD 404": 1}
    assert answered["requests"][0]["file"] == WEIGHTS
    assert answered["leaks"] == 0
    assert post(hub, "reset").status == 200
    assert told(hub, "requests")["requests"] == []


def test_faults_come_and_go(hub: Hub) -> None:
    rule = post(hub, "faults", origin="hub", path=f"*{WEIGHTS}", status=503, drop_headers=["ETag"]).json
    assert ask(file_url(hub, WEIGHTS)).status == 503
    assert [(fault["id"], fault["used"]) for fault in told(hub, "faults")] == [(rule["id"], 1)]
    assert post(hub, "faults", "DELETE", id=rule["id"]).status == 200
    assert ask(file_url(hub, WEIGHTS)).status == 302


def test_a_repository_is_changed(hub: Hub, tmp_path: Path) -> None:
    new = write_files(tmp_path / "new", seed=1)
    commits = post(hub, f"repositories/{REPOSITORY}", folder=str(new), names=["v2"]).json["refs"]
    assert commits["v2"] != commits["main"]
    changed = post(hub, f"repositories/{REPOSITORY}", gated="manual", grants=["somebody"], main=commits["v2"]).json
    assert (changed["gated"], changed["grants"], changed["refs"]["main"]) == ("manual", ["somebody"], commits["v2"])
    assert ask(file_url(hub, WEIGHTS)).error == (401, "GatedRepo")


def test_a_repository_is_added_and_renamed(hub: Hub, folder: Path) -> None:
    assert post(hub, "repositories/gpt2", folder=str(folder)).json["id"] == "gpt2"
    assert post(hub, "repositories/gpt2", rename="openai/gpt2", private=True).json["id"] == "openai/gpt2"
    assert {repository["id"] for repository in told(hub, "repositories")} == {REPOSITORY, "openai/gpt2"}


def test_tokens_are_added_and_revoked(hub: Hub) -> None:
    post(hub, "tokens", token="hf_new", user="somebody")
    assert ask(file_url(hub, WEIGHTS), token="hf_new").status == 302
    post(hub, "tokens", "DELETE", token="hf_new")
    assert ask(file_url(hub, WEIGHTS), token="hf_new").status == 401


def test_settings_are_changed(hub: Hub) -> None:
    limits = {"resolvers": {"quota": 0, "window_seconds": 10}}
    assert post(hub, "settings", page_size=1, lifetime_seconds=3, xet=True, limits=limits).status == 200
    assert (hub.settings.page_size, hub.signer.lifetime_seconds, hub.settings.xet) == (1, 3, True)
    assert ask(file_url(hub, WEIGHTS)).headers["RateLimit"] == '"resolvers";r=0;t=10'


def test_both_origins_go_down_and_come_up(hub: Hub) -> None:
    post(hub, "down", down=True)
    assert told(hub, "")["up"] is False
    with pytest.raises(ConnectionRefusedError):
        ask(hub.endpoint)
    post(hub, "up")
    assert ask(file_url(hub, WEIGHTS)).status == 302


@pytest.mark.parametrize(
    ("path", "given"),
    [
        ("faults", {"no_such_fault": 1}),
        (f"repositories/{REPOSITORY}", {"main": "missing"}),
        (f"repositories/{REPOSITORY}", {"id": "other"}),
        ("repositories/org/missing", {"private": True}),
        ("settings", {"no_such_setting": 1}),
        ("tokens", {"user": "without a token"}),
    ],
)
def test_what_is_not_understood_is_refused(hub: Hub, path: str, given: dict[str, Any]) -> None:
    assert post(hub, path, **given).status == 400


@pytest.fixture
def process(folder: Path) -> Iterator[subprocess.Popen[str]]:
    command = (sys.executable, "-m", "tests.standins.hub", "--repository", f"{REPOSITORY}={folder}")
    options = ("--gated", REPOSITORY, "--token", "hf_new=somebody", "--advertise", "http://localhost")
    with subprocess.Popen(
        (*command, *options), cwd=PROJECT, stdout=subprocess.PIPE, text=True, env=environment()
    ) as it:
        yield it
        it.kill()


def environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}


def test_the_command_tells_its_urls_serves_and_ends(process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    urls = json.loads(process.stdout.readline())
    assert urls["endpoint"].startswith("http://localhost:")
    assert ask(f"{urls['endpoint']}/api/models/{REPOSITORY}", token="hf_new").json["gated"] == "manual"
    assert ask(f"{urls['control']}/requests").json["counters"] == {"hub GET 200": 1}
    process.send_signal(signal.SIGTERM)
    assert process.wait() == 0
