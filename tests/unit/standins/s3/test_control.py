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
from tests.standins.s3 import S3, Key
from tests.unit.standins.s3.asking import Answer, ask, url_of
from tests.unit.standins.s3.conftest import BUCKET, CONFIG, WEIGHTS, write_files
from tests.waiting import until


def post(s3: S3, where: str, method: str = "POST", **given: Any) -> Answer:
    return ask(f"{s3.control}/{where}", method, body=json.dumps(given).encode())


def told(s3: S3, path: str) -> Any:
    return ask(f"{s3.control}/{path}").json


def reading(s3: S3, key: Key | None = None, name: str = CONFIG) -> Answer:
    return ask(url_of(s3.endpoint, BUCKET, name), signed=key)


def test_requests_are_told_with_counters_and_forgotten(s3: S3, key: Key) -> None:
    reading(s3, key)
    reading(s3)
    until(lambda: all(record.done for record in s3.requests))
    answered = told(s3, "requests")
    assert answered["counters"] == {"s3 GET 200": 1, "s3 GET 403": 1}
    assert [request["error"] for request in answered["requests"]] == [None, "AccessDenied"]
    assert answered["bytes"] > 0
    assert post(s3, "reset").status == 200
    assert told(s3, "requests")["requests"] == []


def test_faults_come_and_go(s3: S3, key: Key) -> None:
    rule = post(s3, "faults", origin="s3", path="*/config.json", code="SlowDown", drop_headers=["ETag"]).json
    assert reading(s3, key).error == (503, "SlowDown")
    assert [(fault["id"], fault["used"]) for fault in told(s3, "faults")] == [(rule["id"], 1)]
    assert post(s3, "faults", "DELETE", id=rule["id"]).status == 200
    assert reading(s3, key).status == 200


def test_a_fault_replaces_an_object_by_a_file(s3: S3, key: Key, tmp_path: Path) -> None:
    (tmp_path / "new").write_bytes(b"new")
    post(s3, "faults", path=WEIGHTS, replace_after_bytes=1, replace_with=str(tmp_path / "new"))
    assert [reading(s3, key, WEIGHTS).body == b"new" for _ in range(2)] == [False, True]


def test_a_bucket_is_made_and_changed(s3: S3, tmp_path: Path) -> None:
    folder = str(write_files(tmp_path / "other"))
    made = post(s3, "buckets/other", folder=folder, prefix="a/", region="eu-west-1", versioned=True).json
    assert sorted(made["objects"]) == [
        "a/config.json",
        "a/model-00001-of-00001.safetensors",
        "a/original/params.json",
    ]
    assert (made["region"], len(made["objects"]["a/config.json"]["version"]) > 8) == ("eu-west-1", True)
    post(s3, f"buckets/{BUCKET}", public={"may_list": False}, grants={"somebody": {"may_get": False}})
    assert reading(s3).status == 200
    assert ask(url_of(s3.endpoint, BUCKET, list_type="2")).status == 403
    assert {bucket["name"] for bucket in told(s3, "buckets")} == {BUCKET, "other"}


def test_an_object_is_replaced_and_deleted(s3: S3, key: Key, tmp_path: Path) -> None:
    (tmp_path / "new").write_bytes(b"new")
    assert post(s3, f"objects/{BUCKET}", key=CONFIG, file=str(tmp_path / "new")).json["size"] == 3
    assert reading(s3, key).body == b"new"
    post(s3, f"objects/{BUCKET}", key=CONFIG, text="newer")
    assert reading(s3, key).body == b"newer"
    post(s3, f"objects/{BUCKET}", "DELETE", key=CONFIG)
    assert reading(s3, key).status == 404


def test_keys_are_added_expired_and_revoked(s3: S3) -> None:
    lasting = Key(*[post(s3, "keys", id="AKIAONE", secret="one").json[name] for name in ("id", "secret")])
    assert reading(s3, lasting).status == 200
    given = post(s3, "keys", principal="somebody", lifetime_seconds=60).json
    temporary = Key(given["id"], given["secret"], given["token"])
    assert reading(s3, temporary).status == 200
    post(s3, "expire", id=temporary.id)
    assert reading(s3, temporary).error == (400, "ExpiredToken")
    post(s3, "keys", "DELETE", id=lasting.id)
    assert reading(s3, lasting).error == (403, "InvalidAccessKeyId")


def test_settings_are_changed(s3: S3) -> None:
    given: dict[str, Any] = {
        "sts": {"lifetime_seconds": 3, "token": "web", "roles": ["arn"]},
        "pod_identity": {"token": "pod"},
    }
    assert post(s3, "settings", page_size=1, metadata={"role": None}, **given).status == 200
    assert (s3.settings.page_size, s3.sts.lifetime_seconds, s3.sts.roles) == (1, 3, {"arn"})
    assert (s3.sts.tokens.valid, s3.pod_identity.tokens.valid, s3.metadata.role) == ({"web"}, {"pod"}, None)


def test_it_goes_down_and_comes_up(s3: S3, key: Key) -> None:
    post(s3, "down")
    assert told(s3, "")["up"] is False
    with pytest.raises(ConnectionRefusedError):
        reading(s3, key)
    post(s3, "up")
    assert reading(s3, key).status == 200


@pytest.mark.parametrize(
    ("path", "given"),
    [
        ("faults", {"no_such_fault": 1}),
        (f"buckets/{BUCKET}", {"no_such_setting": 1}),
        (f"objects/{BUCKET}", {"key": "without content"}),
        ("objects/missing", {"key": "a", "text": ""}),
        ("settings", {"no_such_setting": 1}),
        ("settings", {"metadata": {"token": "it has none"}}),
        ("expire", {"id": "missing"}),
        ("keys", {"unknown": 1}),
    ],
)
def test_what_is_not_understood_is_refused(s3: S3, path: str, given: dict[str, Any]) -> None:
    assert post(s3, path, **given).status == 400


def test_what_is_not_there_is_404(s3: S3) -> None:
    assert [post(s3, path).status for path in ("missing", "settings/more", "buckets")] == [404, 404, 404]


@pytest.fixture
def process(folder: Path) -> Iterator[subprocess.Popen[str]]:
    command = (sys.executable, "-m", "tests.standins.s3", "--bucket", f"{BUCKET}={folder}", "--prefix", "llama/")
    options = ("--access-key", "AKIAONE=one", "--region", "eu-west-1", "--advertise", "http://localhost")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    with subprocess.Popen((*command, *options), cwd=PROJECT, stdout=subprocess.PIPE, text=True, env=environment) as it:
        yield it
        it.kill()


def test_the_command_tells_its_urls_serves_and_ends(process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    urls = json.loads(process.stdout.readline())
    assert urls["endpoint"].startswith("http://localhost:")
    answer = ask(url_of(urls["endpoint"], BUCKET, CONFIG), signed=Key("AKIAONE", "one"))
    assert (answer.error, answer.element("Region")) == ((400, "AuthorizationHeaderMalformed"), "eu-west-1")
    assert ask(f"{urls['control']}/requests").json["counters"] == {"s3 GET 400": 1}
    process.send_signal(signal.SIGTERM)
    assert process.wait() == 0
