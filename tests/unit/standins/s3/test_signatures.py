"""Signature version 4: what is accepted, and how each thing that is wrong is told."""

import hashlib
from dataclasses import replace

import pytest

from tests.standins.s3 import S3, Bucket, Key
from tests.unit.standins.s3.asking import Answer, Signing, ask, url_of
from tests.unit.standins.s3.conftest import BUCKET, CONFIG, Clock

EMPTY = hashlib.sha256(b"").hexdigest()
OTHER = hashlib.sha256(b"other").hexdigest()


def asked(s3: S3, signing: Signing, bucket: str = BUCKET, method: str = "GET") -> Answer:
    return ask(url_of(s3.endpoint, bucket, CONFIG), method, signed=signing)


@pytest.mark.parametrize("payload", ["UNSIGNED-PAYLOAD", EMPTY])
def test_a_signed_request_is_answered_whether_its_payload_is_signed_or_not(s3: S3, key: Key, payload: str) -> None:
    assert asked(s3, Signing(key, payload=payload)).status == 200


def test_a_payload_is_compared_with_what_was_signed(s3: S3, key: Key) -> None:
    assert asked(s3, Signing(key, payload=OTHER)).error == (400, "XAmzContentSHA256Mismatch")


def test_names_and_parameters_that_need_quotes_are_signed_as_clients_do(s3: S3, bucket: Bucket, key: Key) -> None:
    bucket.put("odd/a b+c&d=é~'(1).bin", b"there")
    assert ask(url_of(s3.endpoint, BUCKET, "odd/a b+c&d=é~'(1).bin"), signed=key).body == b"there"
    listed = ask(url_of(s3.endpoint, BUCKET, list_type="2", prefix="odd/a b+c&", delimiter="/"), signed=key)
    assert listed.element("KeyCount") == "1"


def test_a_wrong_secret_is_told_with_what_the_server_signed(s3: S3, key: Key) -> None:
    answer = asked(s3, Signing(replace(key, secret="wrong")))
    assert answer.error == (403, "SignatureDoesNotMatch")
    assert str(answer.element("StringToSign")).startswith("AWS4-HMAC-SHA256\n")
    assert str(answer.element("CanonicalRequest")).startswith(f"GET\n/{BUCKET}/{CONFIG}\n")


def test_an_unknown_key_is_refused_for_a_bucket_that_is_not_there_too(s3: S3, key: Key) -> None:
    signing = Signing(replace(key, id="AKIANOBODY"))
    assert asked(s3, signing).error == asked(s3, signing, "missing").error == (403, "InvalidAccessKeyId")


def test_a_key_is_revoked_at_run_time(s3: S3, key: Key) -> None:
    assert asked(s3, Signing(key)).status == 200
    s3.revoke(key)
    assert asked(s3, Signing(key)).error == (403, "InvalidAccessKeyId")


def test_a_wrong_region_is_told_with_the_right_one(s3: S3, bucket: Bucket, key: Key) -> None:
    bucket.region = "eu-west-1"
    answer = asked(s3, Signing(key))
    assert answer.error == (400, "AuthorizationHeaderMalformed")
    assert answer.element("Region") == "eu-west-1"
    assert "the region 'us-east-1' is wrong; expecting 'eu-west-1'" in str(answer.element("Message"))
    assert asked(s3, Signing(key, region="eu-west-1")).status == 200


def test_a_wrong_region_is_redirected_without_a_location_where_it_is_set_so(s3: S3, bucket: Bucket, key: Key) -> None:
    bucket.region, bucket.redirects = "eu-west-1", True
    answer = asked(s3, Signing(key))
    assert answer.error == (301, "PermanentRedirect")
    assert answer.headers["Location"] is None
    assert answer.headers["x-amz-bucket-region"] == "eu-west-1"
    assert answer.element("Endpoint") == f"{BUCKET}.s3.eu-west-1.amazonaws.com"


def test_another_service_is_refused(s3: S3, key: Key) -> None:
    assert asked(s3, Signing(key, service="ec2")).error == (400, "AuthorizationHeaderMalformed")


@pytest.mark.parametrize("moved_seconds", [-16 * 60, 16 * 60])
def test_a_clock_that_is_far_off_is_told(s3: S3, key: Key, clock: Clock, moved_seconds: float) -> None:
    clock.moved_seconds = moved_seconds
    answer = asked(s3, Signing(key))
    assert answer.error == (403, "RequestTimeTooSkewed")
    assert answer.element("MaxAllowedSkewMilliseconds") == "900000"


def test_a_clock_that_is_a_little_off_is_accepted(s3: S3, key: Key, clock: Clock) -> None:
    clock.moved_seconds = 14 * 60
    assert asked(s3, Signing(key)).status == 200


def test_headers_of_amazons_have_to_be_signed(s3: S3, key: Key) -> None:
    name = "x-amz-request-payer"
    answer = asked(s3, Signing(key, extra={name: "requester"}, unsigned=(name,)))
    assert answer.error == (403, "AccessDenied")
    assert answer.element("HeadersNotSigned") == name
    assert asked(s3, Signing(key, extra={name: "requester"})).status == 200


@pytest.mark.parametrize(
    ("authorization", "code"),
    [
        ("Bearer abc", "InvalidArgument"),
        ("AWS4-HMAC-SHA256 Credential=abc, SignedHeaders=host, Signature=0", "AuthorizationHeaderMalformed"),
        ("AWS4-HMAC-SHA256 Credential=a/20260101/us-east-1/s3/aws4_request", "AuthorizationHeaderMalformed"),
    ],
)
def test_another_header_is_refused(s3: S3, authorization: str, code: str) -> None:
    assert ask(url_of(s3.endpoint, BUCKET, CONFIG), Authorization=authorization).error == (400, code)


def test_a_temporary_key_is_accepted_until_it_ends(s3: S3, clock: Clock) -> None:
    key = s3.add_temporary_key(lifetime_seconds=60)
    assert asked(s3, Signing(key)).status == 200
    clock.moved_seconds = 61
    answer = asked(s3, Signing(key))
    assert answer.error == (400, "ExpiredToken")
    assert answer.element("Token-0") == key.token


def test_a_temporary_key_ends_when_a_test_wants(s3: S3) -> None:
    key = s3.add_temporary_key()
    s3.access.expire(key.id)
    assert asked(s3, Signing(key)).error == (400, "ExpiredToken")


def test_a_temporary_key_is_unknown_without_its_token(s3: S3) -> None:
    key = s3.add_temporary_key()
    assert asked(s3, Signing(replace(key, token=None))).error == (403, "InvalidAccessKeyId")


def test_a_token_of_another_key_is_invalid(s3: S3, key: Key) -> None:
    temporary = s3.add_temporary_key()
    assert asked(s3, Signing(replace(temporary, token="other"))).error == (400, "InvalidToken")
    assert asked(s3, Signing(replace(key, token=temporary.token))).error == (400, "InvalidToken")


def test_a_refusal_of_head_has_no_body(s3: S3, key: Key) -> None:
    answer = asked(s3, Signing(replace(key, secret="wrong")), method="HEAD")
    assert (answer.status, answer.body) == (403, b"")


def test_no_secret_is_recorded_and_none_is_shown(s3: S3, key: Key) -> None:
    temporary = s3.add_temporary_key()
    asked(s3, Signing(key))
    asked(s3, Signing(temporary))
    told = f"{list(s3.requests)} {key} {temporary}"
    assert [secret for secret in (key.secret, temporary.secret, temporary.token) if str(secret) in told] == []
    assert [record.key_id for record in s3.requests] == [key.id, temporary.id]
