"""The unmodified obstore takes it for S3, as a bucket's reader meets it."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import obstore
import pytest
from obstore.exceptions import (
    GenericError,
    PermissionDeniedError,
    PreconditionError,
)
from obstore.store import S3Store

from tests.authority import Authority
from tests.standins.s3 import S3, Bucket, Grant, Key
from tests.standins.s3.identities import PodIdentity, Sts
from tests.unit.standins.s3.conftest import BUCKET, CONFIG, NUM_BYTES, WEIGHTS, some_bytes
from tests.waiting import until

ROLE = "arn:aws:iam::123456789012:role/reader"
PARAMS = "llama/original/params.json"
RETRIES: Any = {
    "backoff": {"init_backoff": timedelta(milliseconds=1), "max_backoff": timedelta(milliseconds=2), "base": 2},
    "max_retries": 3,
    "retry_timeout": timedelta(minutes=5),
}


def store(s3: S3, key: Key | None = None, *, client: dict[str, Any] | None = None, **given: Any) -> S3Store:
    """With what is given in place of what is usual."""
    config: dict[str, Any] = {"endpoint": s3.endpoint, "region": "us-east-1"}
    if key:
        config |= {"access_key_id": key.id, "secret_access_key": key.secret}
        config |= {"session_token": key.token} if key.token else {}
    options: Any = {"allow_http": True, "timeout": timedelta(minutes=5), **(client or {})}
    return S3Store(BUCKET, client_options=options, retry_config=RETRIES, **{**config, **given})


def names(of: S3Store, prefix: str | None = None) -> list[str]:
    return [found["path"] for chunk in obstore.list(of, prefix) for found in chunk]


def read(of: S3Store, name: str = WEIGHTS, **options: Any) -> bytes:
    given: Any = options
    return bytes(obstore.get(of, name, options=given).bytes())


def test_objects_are_listed_with_their_state(s3: S3, bucket: Bucket, key: Key) -> None:
    listed = [found for chunk in obstore.list(store(s3, key)) for found in chunk]
    assert [(one["path"], one["size"], one["e_tag"], one["last_modified"], one["version"]) for one in listed] == [
        (found.key, found.size, f'"{found.etag}"', datetime.fromtimestamp(found.modified, UTC), None)
        for found in bucket
    ]


@pytest.mark.parametrize("page_size", [1, 2, 3])
def test_pages_of_a_listing_are_followed(s3: S3, bucket: Bucket, key: Key, page_size: int) -> None:
    bucket.put("llama/odd & <b+é>.json", b"")
    s3.settings.page_size = page_size
    assert names(store(s3, key)) == [found.key for found in bucket]
    assert s3.requests.count(operation="list") == -(-4 // page_size)


def test_one_level_is_listed(s3: S3, key: Key) -> None:
    s3.settings.page_size = 1
    level = obstore.list_with_delimiter(store(s3, key), "llama")
    assert [found["path"] for found in level["objects"]] == [CONFIG, WEIGHTS]
    assert list(level["common_prefixes"]) == ["llama/original"]


def test_ranges_are_read_without_a_copy(s3: S3, key: Key, weights: bytes) -> None:
    found = obstore.get(store(s3, key), WEIGHTS, options={"range": (1000, 2000)})
    assert found.range == (1000, 2000)
    assert found.meta["size"] == NUM_BYTES
    assert np.frombuffer(memoryview(found.buffer()), np.uint8).tobytes() == weights[1000:2000]
    assert read(store(s3, key), range={"suffix": 10}) == weights[-10:]
    assert read(store(s3, key), range=(NUM_BYTES - 5, NUM_BYTES + 5)) == weights[-5:], "it is shortened"


def test_a_range_beyond_the_end_is_an_error(s3: S3, key: Key) -> None:
    with pytest.raises(GenericError, match="InvalidRange"):
        read(store(s3, key), range=(NUM_BYTES, NUM_BYTES + 5))


def test_a_head_has_size_etag_and_version(s3: S3, bucket: Bucket, key: Key) -> None:
    assert obstore.head(store(s3, key), WEIGHTS)["version"] is None
    bucket.versioned = True
    made = bucket.put(WEIGHTS, b"other")
    told = obstore.head(store(s3, key), WEIGHTS)
    assert (told["size"], told["e_tag"], told["version"]) == (5, f'"{made.etag}"', made.version)


def test_an_object_that_was_replaced_is_told_and_its_version_read_on(s3: S3, bucket: Bucket, key: Key) -> None:
    bucket.versioned = True
    old = bucket.put(WEIGHTS, some_bytes(seed=1))
    bucket.put(WEIGHTS, some_bytes(seed=2))
    etag, client = f'"{old.etag}"', store(s3, key)
    with pytest.raises(PreconditionError, match="PreconditionFailed"):
        read(client, range=(0, 10), if_match=etag)
    assert read(client, range=(0, 10), if_match=etag, version=old.version) == some_bytes(seed=1)[:10]


def test_without_an_etag_the_time_tells_of_a_replacement(s3: S3, bucket: Bucket, key: Key) -> None:
    bucket.etags = "none"
    bucket.put(WEIGHTS, some_bytes(seed=1))
    client = store(s3, key)
    told = obstore.head(client, WEIGHTS)
    assert told["e_tag"] is None
    assert read(client, if_unmodified_since=told["last_modified"]) == some_bytes(seed=1)
    bucket.put(WEIGHTS, some_bytes(seed=2))
    with pytest.raises(PreconditionError):
        read(client, if_unmodified_since=told["last_modified"])


def test_what_is_missing_is_not_found(s3: S3, bucket: Bucket, key: Key) -> None:
    for ask in (obstore.head, obstore.get):
        with pytest.raises(FileNotFoundError):
            ask(store(s3, key), "llama/missing.json")
    bucket.grants[key.principal] = Grant(may_list=False)
    with pytest.raises(PermissionDeniedError):
        obstore.head(store(s3, key), "llama/missing.json")


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"access_key_id": "AKIANOBODY"}, "InvalidAccessKeyId"),
        ({"secret_access_key": "wrong"}, "SignatureDoesNotMatch"),
        ({"session_token": "left over"}, "InvalidToken"),
        ({"region": "eu-west-1"}, "expecting 'us-east-1'"),
    ],
)
def test_what_is_wrong_with_the_keys_is_told(s3: S3, key: Key, changes: dict[str, Any], code: str) -> None:
    client = store(s3, key, **changes)
    for ask in (names, read):
        with pytest.raises((PermissionDeniedError, GenericError), match=code):
            ask(client)
    assert len(s3.requests) == 2, "none is tried again"


def test_another_region_is_a_redirect_without_a_location(s3: S3, bucket: Bucket, key: Key) -> None:
    bucket.region, bucket.redirects = "eu-west-1", True
    with pytest.raises(GenericError, match="redirect without LOCATION"):
        names(store(s3, key))
    assert names(store(s3, key, region="eu-west-1"))


def test_a_key_that_is_revoked_in_the_middle_of_a_run_is_refused(s3: S3, key: Key) -> None:
    client = store(s3, key)
    assert len(read(client)) == NUM_BYTES
    s3.revoke(key)
    with pytest.raises(PermissionDeniedError, match="InvalidAccessKeyId"):
        read(client)


def test_a_token_expires_in_the_middle_of_a_run(s3: S3) -> None:
    key = s3.add_temporary_key()
    client = store(s3, key)
    assert len(read(client)) == NUM_BYTES
    s3.access.expire(key.id)
    with pytest.raises(GenericError, match="ExpiredToken"):
        read(client)


def test_a_provider_is_asked_for_keys_before_they_end(s3: S3) -> None:
    lifetimes = iter([200.0, 3600.0])

    def provide() -> Any:
        key = s3.add_temporary_key(lifetime_seconds=next(lifetimes))
        expires = datetime.fromtimestamp(key.expires or 0.0, UTC)
        return {"access_key_id": key.id, "secret_access_key": key.secret, "token": key.token, "expires_at": expires}

    client = store(s3, credential_provider=provide)
    until(lambda: read(client, range=(0, 5)) and len({record.key_id for record in s3.requests}) == 2)


def test_a_public_bucket_needs_no_signature(s3: S3, bucket: Bucket) -> None:
    client = store(s3, skip_signature=True)
    with pytest.raises(PermissionDeniedError, match="AccessDenied"):
        read(client)
    bucket.public = Grant()
    assert names(client) == [CONFIG, WEIGHTS, PARAMS]
    assert len(read(client)) == NUM_BYTES
    assert {record.key_id for record in s3.requests} == {None}


def test_the_requester_pays(s3: S3, bucket: Bucket, key: Key) -> None:
    bucket.requester_pays = True
    with pytest.raises(PermissionDeniedError, match="AccessDenied"):
        read(store(s3, key))
    paying = store(s3, key, request_payer=True)
    assert names(paying) == [CONFIG, WEIGHTS, PARAMS]
    assert len(read(paying)) == NUM_BYTES


def test_unsigned_payloads_are_accepted(s3: S3, key: Key) -> None:
    assert names(store(s3, key, unsigned_payload=True)) == [CONFIG, WEIGHTS, PARAMS]


def test_what_slows_down_is_asked_again(s3: S3, key: Key, weights: bytes) -> None:
    s3.faults.add(code="SlowDown", count=2)
    assert read(store(s3, key)) == weights
    assert [record.status for record in s3.requests] == [503, 503, 200]


def test_what_slows_down_for_ever_is_told(s3: S3, key: Key) -> None:
    s3.faults.add(code="SlowDown")
    with pytest.raises(GenericError, match="SlowDown"):
        read(store(s3, key))
    assert len(s3.requests) == 1 + RETRIES["max_retries"]


@pytest.mark.parametrize("reset", [False, True])
def test_a_body_that_breaks_off_is_continued(s3: S3, key: Key, weights: bytes, reset: bool) -> None:
    s3.faults.add(operation="get", cut_after_bytes=400, reset=reset, count=1)
    etag = obstore.head(store(s3, key), WEIGHTS)["e_tag"]
    assert read(store(s3, key), range=(1000, 2000), if_match=etag) == weights[1000:2000]
    first, second = s3.requests.matching(operation="get")
    assert (first.range, first.if_match, second.if_match) == ("bytes=1000-1999", etag, etag)
    assert str(second.range).endswith("-1999")


def test_a_body_that_breaks_off_is_not_continued_with_another_object(s3: S3, key: Key) -> None:
    replacing: dict[str, Any] = {"replace_after_bytes": 1, "replace_with": some_bytes(seed=1)}
    s3.faults.add(operation="get", cut_after_bytes=400, count=1, **replacing)
    with pytest.raises(GenericError, match="PreconditionFailed"):
        read(store(s3, key), range=(1000, 2000), if_match=obstore.head(store(s3, key), WEIGHTS)["e_tag"])
    assert [record.status for record in s3.requests.matching(operation="get")] == [206, 412]


def test_a_body_that_breaks_off_without_an_etag_is_an_error(s3: S3, bucket: Bucket, key: Key) -> None:
    bucket.etags = "none"
    bucket.put(WEIGHTS, some_bytes(seed=1))
    s3.faults.add(cut_after_bytes=400, count=1)
    with pytest.raises(GenericError):
        read(store(s3, key), range=(1000, 2000))
    assert [record.status for record in s3.requests] == [206]


def test_a_range_that_is_answered_with_everything_is_refused(s3: S3, key: Key) -> None:
    s3.faults.add(ignore_range=True)
    with pytest.raises(GenericError, match="non-partial response"):
        read(store(s3, key), range=(0, 10))


def test_a_stall_ends_with_the_time_for_reading(s3: S3, key: Key, weights: bytes) -> None:
    s3.faults.add(stall_after_bytes=400, count=1)
    client = store(s3, key, client={"read_timeout": timedelta(seconds=1)})
    assert read(client, range=(1000, 2000)) == weights[1000:2000]


def test_an_own_authority_is_trusted_where_it_is_given(folder: Path, tmp_path: Path, weights: bytes) -> None:
    authority = Authority(tmp_path)
    certificate, private = authority.issue("127.0.0.1")
    with S3(certificate=certificate, key=private) as s3:
        s3.add_bucket(BUCKET, folder, "llama/")
        key = s3.add_key()
        assert read(store(s3, key, client=trusting(authority))) == weights
        with pytest.raises(GenericError, match="UnknownIssuer"):
            read(store(s3, key))


def trusting(authority: Authority) -> dict[str, Any]:
    return {"root_certificate": authority.certificate.read_text(), "allow_http": False}


def test_a_web_identity_is_refreshed_with_the_token_of_its_file(folder: Path, tmp_path: Path) -> None:
    authority, token = Authority(tmp_path), tmp_path / "token"
    certificate, private = authority.issue("127.0.0.1")
    with S3(certificate=certificate, key=private) as s3:
        s3.add_bucket(BUCKET, folder, "llama/").grants[ROLE] = Grant(may_list=False)
        s3.sts.roles, s3.sts.lifetime_seconds = {ROLE}, 200
        named: dict[str, Any] = {
            "web_identity_token_file": str(token),
            "role_arn": ROLE,
            "aws_endpoint_url_sts": s3.sts_endpoint,
        }
        client = store(s3, client=trusting(authority), **named)
        check_rotation(s3.sts, token, client)
        assert s3.sts.num_issued == s3.requests.count(origin="sts", status=200)


def test_pod_identity_is_refreshed_with_the_token_of_its_file(s3: S3, bucket: Bucket, tmp_path: Path) -> None:
    token = tmp_path / "token"
    bucket.grants[s3.pod_identity.role] = Grant(may_list=False)
    s3.pod_identity.lifetime_seconds = 200
    named: dict[str, Any] = {
        "container_credentials_full_uri": s3.pod_identity_uri,
        "container_authorization_token_file": str(token),
    }
    check_rotation(s3.pod_identity, token, store(s3, **named))
    assert s3.pod_identity.num_issued == s3.requests.count(origin="pod-identity", status=200)


def check_rotation(issuer: Sts | PodIdentity, file: Path, client: S3Store) -> None:
    """The client asks for keys anew while they have less than five minutes left, though not at every request."""
    for token in ("first", "second"):
        issuer.tokens.rotate(token)
        file.write_text(token)
        read_until_issued(issuer, client)
    issuer.tokens.rotate("third")
    until(lambda: is_refused(client))


def read_until_issued(issuer: Sts | PodIdentity, client: S3Store) -> None:
    before = issuer.num_issued
    until(lambda: len(read(client)) == NUM_BYTES and issuer.num_issued > before)


def is_refused(client: S3Store) -> bool:
    try:
        read(client)
    except GenericError:
        return True
    return False


def test_the_metadata_of_an_instance_give_keys(s3: S3) -> None:
    client = store(s3, metadata_endpoint=s3.metadata_endpoint)
    assert len(read(client)) == len(read(client)) == NUM_BYTES
    assert s3.metadata.num_issued == 1, "the keys live long"
    assert s3.requests.count(origin="metadata") == 3


def test_an_instance_without_a_role_gives_none(s3: S3) -> None:
    s3.metadata.role = None
    with pytest.raises(GenericError):
        read(store(s3, metadata_endpoint=s3.metadata_endpoint))
    assert s3.requests.count(origin="s3") == 0
