"""By what right a bucket is read, and that nothing else of the environment counts."""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from neuronmodel_worker.sources.remote.refusals import CredentialsInvalid
from neuronmodel_worker.sources.s3 import credentials
from neuronmodel_worker.sources.s3.credentials import (
    OF_A_SHELL,
    Anonymous,
    GivenKeys,
    KeyFiles,
    PodIdentity,
    answers_metadata,
    credentials_of,
    process_environment,
    without_variables,
)

KEYS = {"AWS_ACCESS_KEY_ID": "AKIDEXAMPLE", "AWS_SECRET_ACCESS_KEY": "sesame"}
IRSA = {"AWS_WEB_IDENTITY_TOKEN_FILE": "/var/token", "AWS_ROLE_ARN": "arn:aws:iam::1:role/reader"}
POD_IDENTITY = {
    "AWS_CONTAINER_CREDENTIALS_FULL_URI": "http://169.254.170.23/v1/credentials",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE": "/var/pod-token",
}


@pytest.fixture
def files(tmp_path: Path) -> KeyFiles:
    (tmp_path / "access-key-id").write_text("AKIDEXAMPLE\n")
    (tmp_path / "secret-access-key").write_text("sesame\n")
    return KeyFiles(tmp_path / "access-key-id", tmp_path / "secret-access-key", tmp_path / "session-token")


def test_keys_in_files_are_read_again(files: KeyFiles) -> None:
    first = files()
    assert (first["access_key_id"], first["secret_access_key"], first["token"]) == ("AKIDEXAMPLE", "sesame", None)
    files.secret_access_key.write_text("rotated")
    assert files.session_token is not None
    files.session_token.write_text("session")
    second = files()
    assert (second["secret_access_key"], second["token"]) == ("rotated", "session")
    assert second["expires_at"].tzinfo


def test_an_empty_session_token_is_none(files: KeyFiles, tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("\n")
    assert replace(files, session_token=tmp_path / "empty")()["token"] is None


def test_a_secret_that_is_missing_is_named(files: KeyFiles) -> None:
    files.secret_access_key.unlink()
    with pytest.raises(CredentialsInvalid, match="has no secret-access-key: it is missing, or lacks that key"):
        files()


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        (KEYS, GivenKeys),
        ({**KEYS, "AWS_PROFILE": "team"}, GivenKeys),
        ({"AWS_SKIP_SIGNATURE": "true"}, Anonymous),
        (IRSA, PodIdentity),
        ({}, PodIdentity),
    ],
)
def test_a_person_s_environment(environment: dict[str, str], expected: type) -> None:
    assert isinstance(credentials_of(environment), expected)


def test_a_profile_is_refused_with_what_to_do() -> None:
    with pytest.raises(ValueError, match=r"profiles are not read\. Export its keys"):
        credentials_of({"AWS_PROFILE": "team"})


def test_a_role_of_the_service_account_comes_before_pod_identity() -> None:
    found = PodIdentity({**POD_IDENTITY, **IRSA, "AWS_ROLE_SESSION_NAME": "me"}).options()
    assert found == {
        "web_identity_token_file": "/var/token",
        "role_arn": "arn:aws:iam::1:role/reader",
        "role_session_name": "me",
    }
    assert set(PodIdentity(POD_IDENTITY).options()) == {
        "container_credentials_full_uri",
        "container_authorization_token_file",
    }


def test_half_an_identity_is_none() -> None:
    half = {"AWS_ROLE_ARN": "arn:aws:iam::1:role/reader"}
    assert PodIdentity(half, has_metadata=lambda: True).options() == {}
    with pytest.raises(CredentialsInvalid, match="Set AWS_ACCESS_KEY_ID"):
        PodIdentity(half, OF_A_SHELL, has_metadata=lambda: False).options()
    with pytest.raises(CredentialsInvalid, match=r"credentialsSecretRef.*serviceAccountName a role.*anonymous"):
        PodIdentity(half, has_metadata=lambda: False).options()


def test_keys_given_by_hand_have_a_session_token_only_of_their_own() -> None:
    assert GivenKeys(KEYS).options() == {"access_key_id": "AKIDEXAMPLE", "secret_access_key": "sesame"}
    assert GivenKeys({**KEYS, "AWS_SESSION_TOKEN": "session"}).options()["session_token"] == "session"


def test_variables_are_hidden_while_a_client_is_made_and_there_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SESSION_TOKEN", "leftover")
    with without_variables():
        assert not [name for name in os.environ if name.startswith("AWS_")]
    assert os.environ["AWS_SESSION_TOKEN"] == "leftover"
    with pytest.raises(KeyError), without_variables():
        raise KeyError
    assert os.environ["AWS_SESSION_TOKEN"] == "leftover"


def test_an_identity_is_found_while_another_client_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """The variables of the process are hidden then."""
    monkeypatch.setenv("AWS_ROLE_ARN", "arn:aws:iam::111122223333:role/reader")
    monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", "/token")
    with ThreadPoolExecutor(1) as pool:
        with without_variables():
            found = pool.submit(process_environment)
            assert not wait([found], timeout=0.05).done
        environment = found.result()
        with without_variables():
            assert PodIdentity(environment).options()["role_arn"].endswith("reader")


class Metadata(BaseHTTPRequestHandler):
    def do_PUT(self) -> None:
        self.send_response(200 if self.headers.get("X-aws-ec2-metadata-token-ttl-seconds") else 400)
        self.end_headers()
        self.wfile.write(b"token")

    def log_message(self, *_: object) -> None:
        """Nothing is printed."""


@pytest.fixture
def metadata() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Metadata) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_instance_metadata_that_answers_is_found(metadata: str) -> None:
    assert answers_metadata(metadata)


def test_instance_metadata_that_is_not_there_is_no_long_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(credentials, "METADATA_SECONDS", 0.05)
    assert not answers_metadata("http://127.0.0.1:1")
