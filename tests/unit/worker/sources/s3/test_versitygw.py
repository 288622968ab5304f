"""A checkpoint in a bucket of a server that others wrote: versitygw, with TLS, users, policies and versions."""

import os
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from neuronmodel_worker.checkpoint import open_checkpoint
from neuronmodel_worker.failures import SourceChanged, WorkerFailure
from neuronmodel_worker.sources.remote.refusals import (
    CertificateUntrusted,
    CredentialsInvalid,
    RegionWrong,
    SourceForbidden,
)
from neuronmodel_worker.sources.s3.address import S3Address
from neuronmodel_worker.sources.s3.answers import BucketNotFound
from neuronmodel_worker.sources.s3.bucket import S3Bucket, open_bucket
from neuronmodel_worker.sources.s3.client import S3Client, S3Server
from neuronmodel_worker.sources.s3.credentials import Anonymous, Credentials, GivenKeys
from tests.unit.worker.commands.commands import Place, described
from tests.unit.worker.commands.test_model_source import of_hub
from tests.unit.worker.sharding import small_source
from tests.unit.worker.sources.hubs import wait_little
from tests.versitygw import PART_BYTES, REGION, Key, Versitygw

PREFIX = "llama/8b/"
FIRST, SECOND = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
READ = ("s3:GetObject", "s3:ListBucket")
_numbers = count(1)


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Versitygw]:
    with Versitygw(tmp_path_factory.mktemp("versitygw")) as gateway:
        yield gateway


@pytest.fixture(scope="module")
def reader(gateway: Versitygw) -> Key:
    return gateway.add_user("reader")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Whose first file is too large for one part."""
    folder = small_source(tmp_path_factory.mktemp("model"), files=2, vocab_size=48_000)
    assert (folder / FIRST).stat().st_size > PART_BYTES
    return folder


@pytest.fixture(autouse=True)
def _waiting_little(monkeypatch: pytest.MonkeyPatch) -> None:
    wait_little(monkeypatch)


@pytest.fixture
def bucket(gateway: Versitygw, reader: Key, folder: Path) -> str:
    """A new one that the reader may list and read, with the checkpoint."""
    return made(gateway, reader, folder)


def made(gateway: Versitygw, reader: Key, folder: Path, *, versioned: bool = False) -> str:
    bucket = f"models-{next(_numbers)}"
    gateway.add_bucket(bucket, versioned=versioned)
    gateway.allow(reader, bucket, READ, PREFIX)
    gateway.put_folder(bucket, folder, PREFIX, in_parts=FIRST)
    return bucket


def keys(key: Key) -> GivenKeys:
    return GivenKeys({"AWS_ACCESS_KEY_ID": key.id, "AWS_SECRET_ACCESS_KEY": key.secret})


def opened(gateway: Versitygw, bucket: str, credentials: Credentials, **server: Any) -> S3Bucket:
    told: dict[str, Any] = {
        "region": REGION,
        "endpoint": gateway.endpoint,
        "certificates": gateway.authority.read_text,
    } | server
    return open_bucket(S3Client(S3Server(**told), S3Address.parse(f"s3://{bucket}/{PREFIX}"), credentials))


def test_a_checkpoint_is_opened_and_its_ranges_are_read(
    gateway: Versitygw, bucket: str, reader: Key, folder: Path
) -> None:
    source = opened(gateway, bucket, keys(reader))
    assert source.files.keys() == {file.name for file in folder.iterdir()}
    assert "-" in source.files[FIRST].etag, "it was uploaded in parts"
    assert "-" not in source.files[SECOND].etag
    assert open_checkpoint(source).tensors.keys() == open_checkpoint(folder).tensors.keys()
    for name in (FIRST, SECOND):
        content, file = (folder / name).read_bytes(), source.files[name]
        for position, nbytes in ((0, 8), (len(content) // 2 - 3, 7), (len(content) - 1, 1)):
            assert source.read_range(file, position, nbytes).tobytes() == content[position : position + nbytes]


@pytest.mark.parametrize(
    ("key", "code"),
    [(Key("reader", "wrong"), "SignatureDoesNotMatch"), (Key("stranger", "secret"), "InvalidAccessKeyId")],
    ids=["secret", "id"],
)
def test_keys_that_the_server_does_not_accept(gateway: Versitygw, bucket: str, key: Key, code: str) -> None:
    with pytest.raises(CredentialsInvalid, match=code) as refused:
        opened(gateway, bucket, keys(key))
    assert key.secret not in str(refused.value).replace("secret access key", "")


def refusals() -> dict[str, tuple[dict[str, Any], type[WorkerFailure], str]]:
    return {
        "region": ({"region": "eu-west-1"}, RegionWrong, f"is in {REGION}: set region to {REGION}"),
        "anonymous": ({"credentials": Anonymous()}, SourceForbidden, "need s3:ListBucket"),
        "no-bucket": ({"bucket": "others"}, BucketNotFound, "There is no bucket at bucket others at 127.0.0.1:"),
        "authority": ({"certificates": lambda: None}, CertificateUntrusted, "is not trusted"),
    }


@pytest.mark.parametrize("case", refusals())
def test_refusals_are_told_apart(gateway: Versitygw, bucket: str, reader: Key, case: str) -> None:
    changed, kind, words = refusals()[case]
    with pytest.raises(WorkerFailure) as refused:
        opened(gateway, **{"bucket": bucket, "credentials": keys(reader), **changed})
    assert isinstance(refused.value, kind)
    assert words in str(refused.value)


def test_a_user_who_may_get_and_not_list_reads_by_names(
    gateway: Versitygw, bucket: str, reader: Key, folder: Path
) -> None:
    gateway.allow(reader, bucket, ["s3:GetObject"], PREFIX)
    source = opened(gateway, bucket, keys(reader))
    assert {FIRST, SECOND, "config.json"} <= source.files.keys()
    assert source.read_range(source.files[SECOND], 0, 99).tobytes() == (folder / SECOND).read_bytes()[:99]


def test_a_user_of_another_prefix_is_refused_with_what_is_needed(gateway: Versitygw, bucket: str, reader: Key) -> None:
    gateway.allow(reader, bucket, ["s3:GetObject"], "other/")
    with pytest.raises(SourceForbidden, match=r"s3:GetObject below the prefix"):
        opened(gateway, bucket, keys(reader))


def test_the_version_that_was_listed_is_read_on(gateway: Versitygw, reader: Key, folder: Path) -> None:
    bucket = made(gateway, reader, folder, versioned=True)
    gateway.allow(reader, bucket, [*READ, "s3:GetObjectVersion"], PREFIX)
    source = opened(gateway, bucket, keys(reader))
    file, content = source.files[FIRST], (folder / FIRST).read_bytes()
    assert file.version
    gateway.put(bucket, PREFIX + FIRST, b"other" * 100)
    assert source.read_range(file, 8, 100).tobytes() == content[8:108]
    gateway.delete(bucket, PREFIX + FIRST)
    assert source.read_range(file, len(content) - 9, 9).tobytes() == content[-9:]


def test_an_object_that_was_replaced_or_removed_is_seen(gateway: Versitygw, bucket: str, reader: Key) -> None:
    source = opened(gateway, bucket, keys(reader))
    first, second = source.files[FIRST], source.files[SECOND]
    assert not first.version
    gateway.put(bucket, PREFIX + FIRST, b"other" * 100)
    gateway.delete(bucket, PREFIX + SECOND)
    with pytest.raises(SourceChanged, match="it was replaced"):
        source.read_range(first, 0, 8)
    with pytest.raises(SourceChanged, match="it is gone"):
        source.read_range(second, 0, 8)


@pytest.fixture
def laid(gateway: Versitygw, reader: Key, folder: Path) -> str:
    """A bucket whose files were laid into its folder: the server has no ETag of them."""
    bucket = f"models-{next(_numbers)}"
    gateway.add_bucket(bucket)
    gateway.allow(reader, bucket, READ, PREFIX)
    gateway.lay_folder(bucket, folder, PREFIX)
    return bucket


def touched(gateway: Versitygw, laid: str) -> None:
    file = gateway.buckets / laid / PREFIX / SECOND
    os.utime(file, (file.stat().st_mtime + 60,) * 2)


def test_the_state_of_files_without_an_etag_is_when_they_were_changed(
    gateway: Versitygw, laid: str, reader: Key
) -> None:
    source = opened(gateway, laid, keys(reader))
    assert not source.files[SECOND].etag
    assert opened(gateway, laid, keys(reader)).resolution.revision == source.resolution.revision
    touched(gateway, laid)
    assert opened(gateway, laid, keys(reader)).resolution.revision != source.resolution.revision


def test_files_without_an_etag_are_read_as_long_as_they_are_not_changed(
    gateway: Versitygw, laid: str, reader: Key, folder: Path
) -> None:
    source = opened(gateway, laid, keys(reader))
    file = source.files[SECOND]
    assert source.read_range(file, 0, 99).tobytes() == (folder / SECOND).read_bytes()[:99]
    touched(gateway, laid)
    with pytest.raises(SourceChanged, match="it was replaced"):
        source.read_range(file, 0, 99)


def test_shards_are_those_of_the_folder(
    gateway: Versitygw, bucket: str, reader: Key, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = Place(tmp_path)
    place.configure(tp_degree=4)
    ended = of_hub("shard", place, model=str(folder))
    assert ended.code == 0, ended.err
    expected = described(place.weights)
    for path in place.weights.iterdir():
        path.unlink()
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", gateway.endpoint)
    monkeypatch.setenv("AWS_REGION", REGION)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", reader.id)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", reader.secret)
    monkeypatch.setenv("SSL_CERT_FILE", str(gateway.authority))
    ended = of_hub("shard", place, model=f"s3://{bucket}/{PREFIX}")
    assert ended.code == 0, ended.err
    assert described(place.weights) == expected
