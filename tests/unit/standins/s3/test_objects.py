"""GetObject and HeadObject: ranges, conditions, versions, and what tells one state of an object from another."""

import hashlib
import http.client
import ssl
from concurrent.futures import ThreadPoolExecutor
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest

from tests.authority import Authority
from tests.standins.s3 import S3, Bucket, Key
from tests.unit.standins.s3.asking import Answer, Signing, ask, connect, url_of
from tests.unit.standins.s3.conftest import BUCKET, CONFIG, NUM_BYTES, WEIGHTS, some_bytes
from tests.waiting import until


def get(s3: S3, key: Key, name: str = WEIGHTS, version: str | None = None, /, **headers: Any) -> Answer:
    return ask(url(s3, name, version), signed=key, **headers)


def url(s3: S3, name: str = WEIGHTS, version: str | None = None) -> str:
    return url_of(s3.endpoint, BUCKET, name, **({"versionId": version} if version else {}))


def test_an_object_is_whole_or_a_range(s3: S3, key: Key, weights: bytes) -> None:
    whole = get(s3, key)
    assert (whole.status, whole.body, whole.headers["Accept-Ranges"]) == (200, weights, "bytes")
    part = get(s3, key, Range="bytes=1000-1999")
    assert (part.status, part.body) == (206, weights[1000:2000])
    assert part.headers["Content-Range"] == f"bytes 1000-1999/{NUM_BYTES}"
    assert get(s3, key, Range="bytes=-10").body == weights[-10:]
    assert get(s3, key, Range=f"bytes={NUM_BYTES - 5}-").body == weights[-5:]
    assert get(s3, key, Range=f"bytes={NUM_BYTES - 5}-{NUM_BYTES + 5}").body == weights[-5:]


@pytest.mark.parametrize("asked", [f"bytes={NUM_BYTES}-", "bytes=-0"])
def test_a_range_beyond_the_end_is_416(s3: S3, key: Key, asked: str) -> None:
    answer = get(s3, key, Range=asked)
    assert answer.error == (416, "InvalidRange")
    assert answer.element("ActualObjectSize") == str(NUM_BYTES)


@pytest.mark.parametrize("asked", ["bytes=0-1,3-4", "bytes=5-4", "bytes=x", "items=0-3"])
def test_what_is_no_single_range_gives_all(s3: S3, key: Key, asked: str) -> None:
    answer = get(s3, key, Range=asked)
    assert (answer.status, len(answer.body)) == (200, NUM_BYTES)


def test_head_has_the_headers_alone(s3: S3, key: Key) -> None:
    head, whole = ask(url(s3), "HEAD", signed=key), get(s3, key)
    assert (head.status, head.body) == (200, b"")
    for name in ("Content-Length", "ETag", "Last-Modified", "Content-Type"):
        assert head.headers[name] == whole.headers[name] is not None


def test_an_etag_is_md5(s3: S3, key: Key, weights: bytes) -> None:
    assert get(s3, key).headers["ETag"] == f'"{hashlib.md5(weights).hexdigest()}"'


def test_an_etag_of_parts_has_their_number(s3: S3, bucket: Bucket, key: Key) -> None:
    bucket.etags, bucket.part_bytes = "multipart", 4
    bucket.put("parts", b"0123456789")
    digests = b"".join(hashlib.md5(part).digest() for part in (b"0123", b"4567", b"89"))
    assert get(s3, key, "parts").headers["ETag"] == f'"{hashlib.md5(digests).hexdigest()}-3"'


def test_of_a_sloppy_server_there_is_no_etag(s3: S3, bucket: Bucket, key: Key) -> None:
    bucket.etags = "none"
    bucket.put("sloppy", b"0123456789")
    assert get(s3, key, "sloppy").headers["ETag"] is None
    listed = ask(url_of(s3.endpoint, BUCKET, list_type="2", prefix="sloppy"), signed=key)
    assert (listed.elements("Key"), listed.elements("ETag")) == (["sloppy"], [])


def test_files_and_bytes_have_the_same_etags(bucket: Bucket, weights: bytes) -> None:
    assert bucket.put("copy", weights).etag == next(found.etag for found in bucket if found.key == WEIGHTS)


def test_if_match_holds_until_the_object_is_replaced(s3: S3, bucket: Bucket, key: Key) -> None:
    etag = get(s3, key).headers["ETag"]
    assert get(s3, key, Range="bytes=0-3", If_Match=etag).status == 206
    bucket.put(WEIGHTS, some_bytes(seed=1))
    answer = get(s3, key, Range="bytes=0-3", If_Match=etag)
    assert answer.error == (412, "PreconditionFailed")
    assert answer.element("Condition") == "If-Match"
    assert ask(url(s3), "HEAD", signed=key, If_Match=etag).status == 412


def test_if_unmodified_since_holds_until_the_object_is_replaced(s3: S3, bucket: Bucket, key: Key) -> None:
    bucket.etags = "none"
    modified = get(s3, key).headers["Last-Modified"]
    assert get(s3, key, If_Unmodified_Since=modified).status == 200
    bucket.put(WEIGHTS, some_bytes(seed=1))
    assert get(s3, key, If_Unmodified_Since=modified).error == (412, "PreconditionFailed")


def test_if_match_that_holds_goes_before_the_time(s3: S3, key: Key) -> None:
    etag, long_ago = get(s3, key).headers["ETag"], formatdate(0, usegmt=True)
    assert get(s3, key, If_Unmodified_Since=long_ago).status == 412
    assert get(s3, key, If_Match=etag, If_Unmodified_Since=long_ago).status == 200


def test_what_a_client_has_is_not_sent_again(s3: S3, key: Key) -> None:
    first = get(s3, key)
    assert get(s3, key, If_None_Match=first.headers["ETag"]).status == 304
    assert get(s3, key, If_None_Match='"other"').status == 200
    assert get(s3, key, If_Modified_Since=first.headers["Last-Modified"]).status == 304


def test_an_old_version_can_still_be_read(s3: S3, bucket: Bucket, key: Key, weights: bytes) -> None:
    bucket.versioned = True
    old = bucket.put(WEIGHTS, weights).version
    new = bucket.put(WEIGHTS, some_bytes(seed=1)).version
    assert ask(url(s3), "HEAD", signed=key).headers["x-amz-version-id"] == new
    assert get(s3, key).body == some_bytes(seed=1)
    assert get(s3, key, WEIGHTS, old).body == weights
    assert get(s3, key, WEIGHTS, old, If_Match=f'"{hashlib.md5(weights).hexdigest()}"').status == 200
    assert get(s3, key, WEIGHTS, "null").body == weights, "from before there were versions"


def test_without_versions_there_is_none_to_name(s3: S3, bucket: Bucket, key: Key) -> None:
    bucket.put(WEIGHTS, some_bytes(seed=1))
    answer = get(s3, key)
    assert (answer.headers["x-amz-version-id"], answer.body) == (None, some_bytes(seed=1))
    assert get(s3, key, WEIGHTS, "null").body == some_bytes(seed=1)


def test_a_version_that_is_not_there_is_told(s3: S3, key: Key) -> None:
    assert get(s3, key, WEIGHTS, "01234567890").error == (404, "NoSuchVersion")
    assert get(s3, key, WEIGHTS, "x").error == (400, "InvalidArgument")


def test_what_was_deleted_is_missing_and_its_versions_are_not(s3: S3, bucket: Bucket, key: Key, weights: bytes) -> None:
    bucket.versioned = True
    bucket.delete(WEIGHTS)
    answer = get(s3, key)
    assert answer.error == (404, "NoSuchKey")
    assert answer.headers["x-amz-delete-marker"] == "true"
    marker = bucket.newest(WEIGHTS)
    assert marker is not None
    assert get(s3, key, WEIGHTS, marker.version).error == (405, "MethodNotAllowed")
    assert get(s3, key, WEIGHTS, "null").body == weights


def test_what_was_deleted_without_versions_is_gone(s3: S3, bucket: Bucket, key: Key) -> None:
    bucket.delete(WEIGHTS)
    assert get(s3, key).error == (404, "NoSuchKey")
    assert get(s3, key, WEIGHTS, "null").error == (404, "NoSuchVersion")
    with pytest.raises(KeyError):
        bucket.delete(WEIGHTS)


def test_a_key_that_is_missing_is_named(s3: S3, key: Key) -> None:
    answer = get(s3, key, "llama/missing.json")
    assert answer.error == (404, "NoSuchKey")
    assert answer.element("Key") == "llama/missing.json"


def test_nothing_is_written(s3: S3, key: Key) -> None:
    for method in ("PUT", "POST", "DELETE"):
        assert ask(url(s3), method, signed=key).error == (501, "NotImplemented")


def test_an_empty_object_has_no_ranges(s3: S3, bucket: Bucket, key: Key) -> None:
    bucket.put("empty", b"")
    assert get(s3, key, "empty").body == b""
    assert get(s3, key, "empty", Range="bytes=0-0").status == 416


def test_a_file_that_was_changed_on_disk_is_never_served(s3: S3, key: Key, folder: Path) -> None:
    (folder / "config.json").write_bytes(b"other")
    assert get(s3, key, CONFIG).error == (500, "InternalError")


def test_requests_are_recorded_with_what_was_sent(s3: S3, key: Key) -> None:
    get(s3, key, WEIGHTS, "null", Range="bytes=0-9", If_Match="*")
    ask(url(s3, "missing"), "HEAD", signed=key)
    first, second = s3.requests
    until(lambda: first.done and second.done, "what was sent to be counted")
    assert (first.origin, first.operation, first.bucket, first.key) == ("s3", "get", BUCKET, WEIGHTS)
    assert (first.range, first.if_match, first.version, first.key_id) == ("bytes=0-9", "*", "null", key.id)
    assert (first.status, first.bytes_sent, first.error) == (206, 10, None)
    assert (second.operation, second.status, second.bytes_sent, second.error) == ("head", 404, 0, "NoSuchKey")
    assert s3.requests.count(path="*.safetensors", status=206) == 1


def test_a_connection_is_kept(s3: S3, key: Key) -> None:
    connection, target = connect(s3.endpoint), url(s3)
    headers = Signing(key).headers("GET", target, {"range": "bytes=0-1"})
    kept = []
    for _ in range(3):
        connection.request("GET", target.removeprefix(s3.endpoint), headers=headers)
        assert len(connection.getresponse().read()) == 2
        kept.append(connection.sock)
    connection.close()
    assert kept[0] is kept[1] is kept[2] is not None


def test_many_connections_are_served_at_the_same_time(s3: S3, key: Key, weights: bytes) -> None:
    starts = range(0, NUM_BYTES, NUM_BYTES // 50)
    with ThreadPoolExecutor(len(starts)) as threads:
        parts = threads.map(lambda start: get(s3, key, Range=f"bytes={start}-{start + starts.step - 1}").body, starts)
        assert b"".join(parts) == weights


def test_it_speaks_https(folder: Path, tmp_path: Path, weights: bytes) -> None:
    authority = Authority(tmp_path)
    certificate, private = authority.issue("127.0.0.1", "localhost")
    trusting = ssl.create_default_context(cafile=str(authority.certificate))
    with S3(certificate=certificate, key=private) as s3:
        s3.add_bucket(BUCKET, folder, "llama/")
        key = s3.add_key()
        assert s3.endpoint.startswith("https://")
        assert s3.sts_endpoint.startswith("https://")
        assert s3.pod_identity_uri.startswith("http://")
        assert ask(url(s3), signed=key, tls=trusting).body == weights
        with pytest.raises(ssl.SSLCertVerificationError):
            ask(url(s3), signed=key)


def test_it_listens_where_it_is_told_and_names_what_is_advertised(folder: Path) -> None:
    with S3(listen="0.0.0.0", advertise="http://localhost") as s3:
        s3.add_bucket(BUCKET, folder, "llama/")
        assert s3.endpoint.startswith("http://localhost:")
        assert ask(url(s3), signed=s3.add_key()).status == 200
        port = int(s3.endpoint.rpartition(":")[2])
        elsewhere = http.client.HTTPConnection("127.0.0.2", port)
        elsewhere.request("GET", "/")
        assert elsewhere.getresponse().status == 501
        elsewhere.close()
    with S3(advertise="http://s3.example:9000/") as s3:
        assert s3.endpoint == "http://s3.example:9000"
