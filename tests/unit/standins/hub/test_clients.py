"""The Hub's unmodified client takes the stand-in for the real one: what it reads, and which errors it raises."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests import hub_client
from tests.authority import Authority
from tests.hub_client import LOCK, NotInstalled, ensured
from tests.standins.hub import Hub
from tests.unit.standins.hub import client_calls
from tests.unit.standins.hub.conftest import NUM_BYTES, REPOSITORY, WEIGHTS, write_files

Call = tuple[str, dict[str, Any]]
Calls = Callable[..., list[dict[str, Any]]]


def run(python: Path, endpoint: str, home: Path, calls: Sequence[Call], **variables: str) -> list[dict[str, Any]]:
    """With an environment of its own: no token, no proxy, not offline, no telemetry, nothing but the endpoint."""
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "HF_HOME": str(home / "huggingface"),
        "HF_ENDPOINT": endpoint,
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        **variables,
    }
    command, given = (str(python), client_calls.__file__), json.dumps(calls)
    done = subprocess.run(command, input=given, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    answers: list[dict[str, Any]] = json.loads(done.stdout)
    return answers


@pytest.fixture(scope="module")
def python() -> Path:
    return hub_client.python()


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    """Its clock is the machine's, which the client has too."""
    with Hub() as hub:
        hub.add_repository(REPOSITORY, write_files(tmp_path / "checkpoint"))
        yield hub


@pytest.fixture
def client(python: Path, hub: Hub, tmp_path: Path) -> Calls:
    return lambda *calls: run(python, hub.endpoint, tmp_path / "home", calls)


@pytest.fixture
def digest(hub: Hub, tmp_path: Path) -> str:
    return hashlib.sha256((tmp_path / "checkpoint" / WEIGHTS).read_bytes()).hexdigest()


def test_it_is_the_version_of_the_lock(client: Calls) -> None:
    assert f"huggingface-hub=={client(('version', {}))[0]['result']} " in LOCK.read_text()


def test_listings(client: Calls, hub: Hub, digest: str) -> None:
    hub.settings.page_size = 2
    info, tree, paths = client(
        ("model_info", {"repo_id": REPOSITORY, "files_metadata": True}),
        ("list_repo_tree", {"repo_id": REPOSITORY}),
        ("get_paths_info", {"repo_id": REPOSITORY, "paths": [WEIGHTS, "config.json", "missing"]}),
    )
    assert info["result"]["sha"] == hub.repository(REPOSITORY).main
    assert info["result"]["files"][WEIGHTS] == NUM_BYTES
    expected = {"README.md", "config.json", WEIGHTS, "original", "original/params.json"}
    assert set(tree["result"]) == expected
    assert tree["result"][WEIGHTS] == digest
    assert hub.requests.count(path="*/tree/main") == 3
    assert paths["result"] == {WEIGHTS: digest, "config.json": None}


def test_metadata_and_downloads(client: Calls, hub: Hub, digest: str, tmp_path: Path) -> None:
    large, small, config, snapshot = client(
        ("get_hf_file_metadata", {"repo_id": REPOSITORY, "filename": WEIGHTS}),
        ("get_hf_file_metadata", {"repo_id": REPOSITORY, "filename": "config.json"}),
        ("hf_hub_download", {"repo_id": REPOSITORY, "filename": "config.json"}),
        ("snapshot_download", {"repo_id": REPOSITORY}),
    )
    sha = hub.repository(REPOSITORY).main
    assert (large["result"]["commit"], large["result"]["etag"], large["result"]["size"]) == (sha, digest, NUM_BYTES)
    assert large["result"]["location"].startswith(hub.cdn)
    assert small["result"]["location"].startswith(f"{hub.endpoint}/api/resolve-cache/")
    assert Path(config["result"]).read_text() == (tmp_path / "checkpoint" / "config.json").read_text()
    for path in (WEIGHTS, "original/params.json"):
        assert (Path(snapshot["result"]) / path).read_bytes() == (tmp_path / "checkpoint" / path).read_bytes()


def test_a_token_goes_to_the_hub_and_never_to_the_cdn(client: Calls, hub: Hub) -> None:
    hub.add_token("hf_owner", "org")
    hub.repository(REPOSITORY).private = True
    (downloaded,) = client(("snapshot_download", {"repo_id": REPOSITORY, "token": "hf_owner"}))
    assert (Path(downloaded["result"]) / WEIGHTS).stat().st_size == NUM_BYTES
    assert hub.requests.count(origin="cdn", status=200) == 1
    assert hub.requests.leaks == []


def test_it_reads_over_https_if_it_trusts_the_authority(python: Path, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    certificate, key = authority.issue("127.0.0.1")
    calls = [("snapshot_download", {"repo_id": REPOSITORY})]
    with Hub(certificate=certificate, key=key) as hub:
        hub.add_repository(REPOSITORY, write_files(tmp_path / "checkpoint"))
        (untrusted,) = run(python, hub.endpoint, tmp_path / "home", calls)
        (read,) = run(python, hub.endpoint, tmp_path / "home", calls, SSL_CERT_FILE=str(authority.certificate))
    assert untrusted["error"] == "LocalEntryNotFoundError"
    assert (Path(read["result"]) / WEIGHTS).stat().st_size == NUM_BYTES


def test_with_xet_it_asks_xets_servers_and_does_not_fall_back(python: Path, hub: Hub, tmp_path: Path) -> None:
    """None are behind the stand-in; the token that it gives for them is no leak of the user's."""
    hub.settings.xet = True
    calls = [("hf_hub_download", {"repo_id": REPOSITORY, "filename": WEIGHTS})]
    (answer,) = run(python, hub.endpoint, tmp_path / "home", calls, HF_HUB_DISABLE_XET="0")
    assert answer["error"] == "RuntimeError"
    assert hub.requests.count(origin="cdn", path="/v?/reconstructions/*", status=404) >= 1
    assert hub.requests.count(origin="cdn", file=WEIGHTS) == 0
    assert hub.requests.leaks == []


def test_a_renamed_repository_is_followed(client: Calls, hub: Hub) -> None:
    hub.rename(REPOSITORY, "neworg/newname")
    info, downloaded = client(
        ("model_info", {"repo_id": REPOSITORY}),
        ("snapshot_download", {"repo_id": REPOSITORY}),
    )
    assert info["result"]["id"] == "neworg/newname"
    assert (Path(downloaded["result"]) / "config.json").exists()


def test_a_limited_request_is_made_again_when_it_may_be(client: Calls, hub: Hub) -> None:
    hub.faults.add(path="*/resolve/*", status=429, set_headers={"RateLimit": '"resolvers";r=0;t=0'}, count=1)
    again = {"repo_id": REPOSITORY, "filename": WEIGHTS, "retry_on_errors": True}
    (answer,) = client(("get_hf_file_metadata", again))
    assert answer["result"]["size"] == NUM_BYTES
    assert [record.status for record in hub.requests.matching(path="*/resolve/*")] == [429, 302]


def test_a_limited_request_that_is_not_made_again(client: Calls, hub: Hub) -> None:
    headers = {"RateLimit": '"api";r=0;t=55', "RateLimit-Policy": '"fixed window";"api";q=500;w=300'}
    hub.faults.add(status=429, set_headers=headers)
    (answer,) = client(("model_info", {"repo_id": REPOSITORY}))
    assert answer["error"] == "HfHubHTTPError"
    assert "Retry after 55 seconds (0/500 requests remaining in current 300s window)" in answer["message"]


def file_of(repository: str = REPOSITORY, filename: str = WEIGHTS, token: str | None = None) -> tuple[str, Any]:
    return "get_hf_file_metadata", {"repo_id": repository, "filename": filename, "token": token}


def test_what_is_missing_has_its_own_class(client: Calls, hub: Hub) -> None:
    hub.add_token("hf_valid", "somebody")
    answers = client(
        ("model_info", {"repo_id": "org/missing"}),
        ("model_info", {"repo_id": "org/missing", "token": "hf_valid"}),
        ("model_info", {"repo_id": REPOSITORY, "revision": "missing"}),
        file_of(filename="missing.json"),
    )
    assert [answer["error"] for answer in answers] == [
        *("RepositoryNotFoundError", "RepositoryNotFoundError", "RevisionNotFoundError", "RemoteEntryNotFoundError"),
    ]
    assert [answer["message"][:3] for answer in answers] == ["401", "404", "404", "404"]


def test_a_private_repository_looks_missing(client: Calls, hub: Hub) -> None:
    hub.repository(REPOSITORY).private = True
    hub.add_token("hf_valid", "somebody")
    answers = client(file_of(), file_of(token="hf_valid"), ("model_info", {"repo_id": REPOSITORY}))
    assert {answer["error"] for answer in answers} == {"RepositoryNotFoundError"}


def test_a_gated_repository_is_told_of_and_not_read(client: Calls, hub: Hub) -> None:
    hub.repository(REPOSITORY).gated = "manual"
    hub.repository(REPOSITORY).grants = {"granted"}
    hub.add_token("hf_valid", "somebody")
    hub.add_token("hf_granted", "granted")
    info, without, refused, checked, granted = client(
        ("model_info", {"repo_id": REPOSITORY}),
        file_of(),
        file_of(token="hf_valid"),
        ("auth_check", {"repo_id": REPOSITORY, "token": "hf_valid"}),
        file_of(token="hf_granted"),
    )
    assert info["result"]["gated"] == "manual"
    assert {without["error"], refused["error"], checked["error"]} == {"GatedRepoError"}
    assert (without["message"][:3], refused["message"][:3]) == ("401", "403")
    assert granted["result"]["size"] == NUM_BYTES


def test_a_refused_token_is_no_missing_repository(client: Calls, hub: Hub) -> None:
    hub.add_token("hf_narrow", "org", reads_private=False)
    hub.repository(REPOSITORY).gated = "manual"
    invalid, narrow = client(file_of(token="hf_invalid"), file_of(token="hf_narrow"))
    assert (invalid["error"], narrow["error"]) == ("HfHubHTTPError", "HfHubHTTPError")
    assert "Invalid credentials in Authorization header" in invalid["message"]
    assert "403 Forbidden" in narrow["message"]


def test_a_disabled_repository_has_its_own_class(client: Calls, hub: Hub) -> None:
    hub.repository(REPOSITORY).disabled = True
    assert client(file_of())[0]["error"] == "DisabledRepoError"


def test_with_a_small_file_the_older_client_of_the_project_loses_its_way(hub: Hub, tmp_path: Path) -> None:
    """0.36 drops the query of a relative redirect, as at the real Hub; so the stand-in's redirect is of that kind."""
    version, large, small = run(
        Path(sys.executable),
        hub.endpoint,
        tmp_path / "home",
        (
            ("version", {}),
            ("hf_hub_download", {"repo_id": REPOSITORY, "filename": WEIGHTS}),
            ("hf_hub_download", {"repo_id": REPOSITORY, "filename": "config.json"}),
        ),
    )
    assert version["result"].startswith("0.36."), "a newer one may keep the query: then this test is to go"
    assert Path(large["result"]).stat().st_size == NUM_BYTES
    assert small["error"] == "LocalEntryNotFoundError"
    assert hub.requests.count(path="/api/resolve-cache/*", status=400) == 1


def test_an_environment_that_is_not_complete_is_made_again(python: Path, tmp_path: Path) -> None:
    lock = tmp_path / "lock.txt"
    lock.write_text("")
    made = ensured(tmp_path / "client", lock)
    (tmp_path / "client" / "installed").unlink()
    made.unlink()
    assert ensured(tmp_path / "client", lock).exists()


def test_an_environment_is_made_again_for_another_lock(python: Path, tmp_path: Path) -> None:
    lock = tmp_path / "lock.txt"
    lock.write_text("")
    left = ensured(tmp_path / "client", lock).parent / "left"
    left.touch()
    ensured(tmp_path / "client", lock)
    assert left.exists(), "the same lock, the same environment"
    lock.write_text("# another\n")
    ensured(tmp_path / "client", lock)
    assert not left.exists()


def test_who_asks_at_the_same_time_waits_for_the_one_that_makes_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    made: list[Path] = []
    monkeypatch.setattr(hub_client, "_install", lambda environment, *_: made.append(environment))
    with ThreadPoolExecutor(4) as threads:
        pythons = set(threads.map(lambda _: ensured(tmp_path / "client", LOCK), range(4)))
    assert (len(made), len(pythons)) == (1, 1)


@pytest.mark.parametrize(("ci", "outcome"), [("true", pytest.fail.Exception), (None, pytest.skip.Exception)])
def test_without_the_client_a_test_is_left_out_but_not_in_ci(
    monkeypatch: pytest.MonkeyPatch, ci: str | None, outcome: type[BaseException]
) -> None:
    def missing(*_: Path) -> Path:
        raise NotInstalled("No index can be reached.")

    monkeypatch.setattr(hub_client, "ensured", missing)
    monkeypatch.setenv("CI", ci) if ci else monkeypatch.delenv("CI", raising=False)
    with pytest.raises(outcome, match="No index can be reached"):
        hub_client.python()


def test_what_cannot_be_installed_is_told_in_a_sentence(tmp_path: Path) -> None:
    lock = tmp_path / "lock.txt"
    lock.write_text("no-hash==1\n")
    with pytest.raises(NotInstalled, match="could not be installed"):
        ensured(tmp_path / "client", lock)
    shutil.rmtree(tmp_path / "client")
