"""A checkpoint in a bucket: listed, pinned, read by ranges, and what a server may refuse."""

import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from neuronmodel_worker.checkpoint import open_checkpoint
from neuronmodel_worker.failures import SourceChanged, WorkerFailure
from neuronmodel_worker.plan.streamed import make_plan
from neuronmodel_worker.sources.remote.refusals import (
    CertificateUntrusted,
    CredentialsInvalid,
    RegionWrong,
    SourceForbidden,
    SourceUnreachable,
)
from neuronmodel_worker.sources.remote.retries import FIRST_ATTEMPTS
from neuronmodel_worker.sources.s3 import answers
from neuronmodel_worker.sources.s3.address import S3Address
from neuronmodel_worker.sources.s3.answers import BucketNotFound
from neuronmodel_worker.sources.s3.bucket import S3Bucket, open_bucket, revision_of
from neuronmodel_worker.sources.s3.client import S3Client, S3Server
from neuronmodel_worker.sources.s3.credentials import Anonymous, Credentials, GivenKeys, PodIdentity
from neuronmodel_worker.stream import TensorSink, run
from tests.authority import Authority
from tests.standins.s3 import S3
from tests.standins.s3.access import Key
from tests.standins.s3.buckets import Grant
from tests.unit.worker.sharding import small_source
from tests.unit.worker.sources.hubs import set_part_bytes, wait_little
from tests.waiting import until

WEIGHTS = "model-00001-of-00002.safetensors"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "source").mkdir()
    return small_source(tmp_path / "source", files=2)


@pytest.fixture
def s3(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3]:
    wait_little(monkeypatch)
    with S3() as s3:
        s3.add_bucket("models", folder, "llama/")
        yield s3


@pytest.fixture
def key(s3: S3) -> Key:
    return s3.add_key()


def keys(key: Key, **changed: str) -> GivenKeys:
    given = {"AWS_ACCESS_KEY_ID": key.id, "AWS_SECRET_ACCESS_KEY": key.secret, "AWS_SESSION_TOKEN": key.token or ""}
    return GivenKeys(given | changed)


def asking(s3: S3, credentials: Credentials, uri: str = "s3://models/llama", **server: Any) -> S3Client:
    return S3Client(S3Server(endpoint=s3.endpoint, **server), S3Address.parse(uri), credentials)


def tensors(place: S3Bucket | Path) -> dict[str, bytes]:
    plan, sink = make_plan(open_checkpoint(place), {"tp_degree": 2}), TensorSink()
    run(plan, sink)
    return {
        f"{rank}/{name}": tensor.data.tobytes()
        for rank, named in enumerate(sink.tensors)
        for name, tensor in named.items()
    }


@pytest.mark.parametrize("part_bytes", [97, 777, 16 << 20])
def test_the_bytes_are_those_of_the_folder(
    s3: S3, key: Key, folder: Path, part_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_part_bytes(monkeypatch, part_bytes)
    assert tensors(open_bucket(asking(s3, keys(key)))) == tensors(folder)


def test_a_list_of_several_pages_is_one(s3: S3, key: Key) -> None:
    s3.settings.page_size = 2
    assert open_bucket(asking(s3, keys(key))).files.keys() == {
        each.key.removeprefix("llama/") for each in s3.bucket("models")
    }


def test_a_start_from_what_is_kept_asks_for_nothing(s3: S3, key: Key, tmp_path: Path) -> None:
    first = open_bucket(asking(s3, keys(key)), tmp_path / "kept")
    fingerprint = open_checkpoint(first).fingerprint
    first.folder()
    s3.requests.clear()
    s3.down()
    again = open_bucket(asking(s3, keys(key)), tmp_path / "kept", first.resolution.revision)
    assert open_checkpoint(again).fingerprint == fingerprint
    unpinned = open_bucket(asking(s3, keys(key)), tmp_path / "kept")
    assert unpinned.resolution.revision == first.resolution.revision
    assert isinstance(unpinned.resolution.failure, SourceUnreachable)
    assert not list(s3.requests)


def test_another_state_is_another_revision(s3: S3, key: Key, folder: Path) -> None:
    first = open_bucket(asking(s3, keys(key)))
    fingerprint = open_checkpoint(first).fingerprint
    assert open_bucket(asking(s3, keys(key))).resolution.revision == first.resolution.revision
    s3.bucket("models").put("llama/README.md", b"of no matter")
    assert open_bucket(asking(s3, keys(key))).resolution.revision == first.resolution.revision
    s3.bucket("models").put(f"llama/{WEIGHTS}", (folder / WEIGHTS).read_bytes()[:-1] + b"x")
    changed = open_bucket(asking(s3, keys(key)))
    assert changed.resolution.revision != first.resolution.revision
    assert open_checkpoint(changed).fingerprint != fingerprint


@pytest.mark.parametrize("etags", ["md5", "multipart", "none"])
def test_an_object_that_was_replaced_or_removed_is_seen(s3: S3, key: Key, folder: Path, etags: Any) -> None:
    s3.bucket("models").etags = etags
    s3.bucket("models").add_folder(folder, "llama/")
    source = open_bucket(asking(s3, keys(key)))
    file = source.files[WEIGHTS]
    assert bool(file.etag) == (etags != "none")
    assert source.read_range(file, 0, 8).nbytes == 8
    s3.bucket("models").delete(f"llama/{WEIGHTS}")
    with pytest.raises(SourceChanged, match="it is gone"):
        source.read_range(file, 8, 8)
    if etags != "none":
        s3.bucket("models").put(f"llama/{WEIGHTS}", b"other" * 100)
        with pytest.raises(SourceChanged, match="it was replaced"):
            source.read_range(file, 8, 8)


@pytest.mark.parametrize("content", [b"other" * 100, None], ids=["replaced", "removed"])
def test_an_object_that_changes_in_the_middle_of_a_range_is_seen(s3: S3, key: Key, content: bytes | None) -> None:
    source = open_bucket(asking(s3, keys(key)))
    file, name = source.files[WEIGHTS], f"llama/{WEIGHTS}"
    if content is None:
        s3.faults.add(operation="get", cut_after_bytes=20, count=1)
        s3.faults.add(operation="get", code="NoSuchKey", nth=2)
    else:
        once: dict[str, Any] = {"operation": "get", "path": name, "count": 1}
        s3.faults.add(**once, replace_after_bytes=20, replace_with=content, cut_after_bytes=20)
    with pytest.raises(SourceChanged, match="it was replaced" if content else "it is gone"):
        source.read_range(file, 0, 100)


def test_a_version_is_read_on_when_the_object_was_replaced(s3: S3, key: Key, folder: Path) -> None:
    s3.bucket("models").versioned = True
    s3.bucket("models").add_folder(folder, "llama/")
    source = open_bucket(asking(s3, keys(key)))
    file = source.files[WEIGHTS]
    assert file.version
    s3.bucket("models").put(f"llama/{WEIGHTS}", b"other" * 100)
    assert source.read_range(file, 0, 100).tobytes() == (folder / WEIGHTS).read_bytes()[:100]


def test_a_bucket_that_may_not_be_listed_is_read_by_names(s3: S3, key: Key, folder: Path) -> None:
    expected = tensors(folder)
    s3.bucket("models").grants[key.principal] = Grant(may_list=False)
    source = open_bucket(asking(s3, keys(key)))
    assert {WEIGHTS, "config.json"} <= source.files.keys()
    assert tensors(source) == expected


def refusals() -> dict[str, Any]:
    return {
        "no-bucket": (lambda s3, key: asking(s3, keys(key), "s3://others/llama"), BucketNotFound, "no bucket at"),
        "below": (lambda s3, key: asking(s3, keys(key), "s3://models"), BucketNotFound, "but llama/ below it"),
        "beside": (lambda s3, key: asking(s3, keys(key), "s3://models/lla"), BucketNotFound, "there is llama/ in the"),
        "secret": (
            lambda s3, key: asking(s3, keys(key, AWS_SECRET_ACCESS_KEY="wrong")),
            CredentialsInvalid,
            "SignatureDoesNotMatch",
        ),
        "id": (
            lambda s3, key: asking(s3, keys(key, AWS_ACCESS_KEY_ID="AKIDUNKNOWN")),
            CredentialsInvalid,
            "InvalidAccessKeyId",
        ),
        "anonymous": (lambda s3, key: asking(s3, Anonymous()), SourceForbidden, "need s3:ListBucket"),
        "region": (
            lambda s3, key: asking(s3, keys(key), region="eu-west-1"),
            RegionWrong,
            "is in us-east-1: set region to us-east-1",
        ),
    }


@pytest.mark.parametrize("case", refusals())
def test_refusals_are_told_apart(s3: S3, key: Key, case: str) -> None:
    client, kind, words = refusals()[case]
    with pytest.raises(WorkerFailure) as refused:
        open_bucket(client(s3, key))
    assert isinstance(refused.value, kind)
    assert words in str(refused.value)
    assert key.secret not in str(refused.value)


def test_a_key_that_expired_is_named(s3: S3) -> None:
    temporary = s3.add_temporary_key()
    s3.access.expire(temporary.id)
    with pytest.raises(CredentialsInvalid, match="ExpiredToken"):
        open_bucket(asking(s3, keys(temporary)))


def test_a_public_bucket_needs_no_key(s3: S3) -> None:
    s3.bucket("models").public = Grant()
    assert WEIGHTS in open_bucket(asking(s3, Anonymous())).files


def test_a_requester_who_pays_has_to_say_so(s3: S3, key: Key) -> None:
    s3.bucket("models").requester_pays = True
    with pytest.raises(SourceForbidden, match="requesterPays"):
        open_bucket(asking(s3, keys(key)))
    assert WEIGHTS in open_bucket(asking(s3, keys(key), requester_pays=True)).files


def test_leftover_variables_change_nothing(s3: S3, key: Key, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "AWS_SESSION_TOKEN": "leftover",
        "AWS_ENDPOINT_URL": "http://127.0.0.1:1",
        "AWS_ENDPOINT_URL_S3": "http://127.0.0.1:1",
        "AWS_REGION": "eu-west-1",
        "AWS_SKIP_SIGNATURE": "true",
        "AWS_VIRTUAL_HOSTED_STYLE_REQUEST": "true",
    }.items():
        monkeypatch.setenv(name, value)
    assert WEIGHTS in open_bucket(asking(s3, keys(key))).files


def test_a_slow_down_is_waited_for(s3: S3, key: Key, folder: Path) -> None:
    expected = tensors(folder)
    s3.faults.add(status=503, count=3)
    assert tensors(open_bucket(asking(s3, keys(key)))) == expected


def test_a_slow_down_of_all_that_is_asked_at_once_is_waited_for(
    s3: S3, key: Key, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More often than a server that never answered is asked."""
    monkeypatch.setattr(answers, "LIMIT_SECONDS", 0.001)
    s3.faults.add(code="SlowDown", operation="head", count=8 * FIRST_ATTEMPTS)
    source = open_bucket(asking(s3, keys(key)))
    s3.faults.add(code="SlowDown", count=8 * FIRST_ATTEMPTS)
    assert tensors(source) == tensors(folder)
    traffic = source.budget.traffic.report()
    assert traffic is not None
    assert traffic.limited_milliseconds > 0


def nowhere() -> str:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{unused.getsockname()[1]}"


def test_it_is_said_when_nobody_gives_the_pod_its_credentials(s3: S3, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("a token that nobody knows")
    agent = {"AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE": str(token)}
    role = {"AWS_WEB_IDENTITY_TOKEN_FILE": str(token), "AWS_ROLE_ARN": "arn:aws:iam::111122223333:role/reader"}
    away = nowhere()
    for environment, kind, words in (
        (
            {**agent, "AWS_CONTAINER_CREDENTIALS_FULL_URI": f"http://{away}/v1/credentials"},
            SourceUnreachable,
            "The agent of EKS Pod Identity cannot be reached",
        ),
        ({**role, "AWS_ENDPOINT_URL_STS": f"https://{away}"}, SourceUnreachable, "AWS STS, which the role"),
        (
            {**agent, "AWS_CONTAINER_CREDENTIALS_FULL_URI": s3.pod_identity_uri},
            CredentialsInvalid,
            "The agent of EKS Pod Identity gives no credentials for bucket models at",
        ),
        (
            {**role, "AWS_WEB_IDENTITY_TOKEN_FILE": str(tmp_path / "missing")},
            CredentialsInvalid,
            "has no token",
        ),
    ):
        with pytest.raises(WorkerFailure) as refused:
            open_bucket(asking(s3, PodIdentity(environment)))
        assert isinstance(refused.value, kind)
        assert words in str(refused.value)
        assert "that nobody knows" not in str(refused.value)


def test_a_server_out_of_reach_is_named(s3: S3, key: Key) -> None:
    s3.down()
    with pytest.raises(SourceUnreachable, match=r"bucket models at 127\.0\.0\.1:\d+ cannot be reached"):
        open_bucket(asking(s3, keys(key)))


def test_an_authority_of_one_s_own(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wait_little(monkeypatch)
    (tmp_path / "authority").mkdir()
    authority = Authority(tmp_path / "authority")
    certificate, private = authority.issue("127.0.0.1")
    with S3(certificate=certificate, key=private) as s3:
        s3.add_bucket("models", folder, "llama/")
        given = keys(s3.add_key())
        with pytest.raises(CertificateUntrusted):
            open_bucket(asking(s3, given))
        assert WEIGHTS in open_bucket(asking(s3, given, certificates=authority.certificate.read_text)).files


def test_pod_identity_is_asked_again_when_its_keys_are_old(s3: S3, folder: Path, tmp_path: Path) -> None:
    s3.pod_identity.tokens.rotate("first")
    (tmp_path / "token").write_text("first")
    s3.pod_identity.lifetime_seconds = 1.0
    environment = {
        "AWS_CONTAINER_CREDENTIALS_FULL_URI": s3.pod_identity_uri,
        "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE": str(tmp_path / "token"),
    }
    source = open_bucket(asking(s3, PodIdentity(environment)))
    s3.pod_identity.tokens.rotate("another")
    (tmp_path / "token").write_text("another")
    until(lambda: all(s3.access.is_expired(found) for found in s3.access))
    assert tensors(source) == tensors(folder)
    assert s3.pod_identity.num_issued > 1


def test_the_revision_is_of_the_files_that_are_read(s3: S3, key: Key) -> None:
    files = list(open_bucket(asking(s3, keys(key))).files.values())
    assert revision_of(files) == revision_of(reversed(files))
    for changed in ({"nbytes": 1}, {"etag": '"other"'}, {"version": "2"}):
        assert revision_of([replace(files[0], **changed), *files[1:]]) != revision_of(files)
