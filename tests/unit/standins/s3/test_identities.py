"""Temporary keys by web identity, by EKS Pod Identity and from an instance's metadata."""

from urllib.parse import urlencode

import pytest

from tests.standins.s3 import S3, Bucket, Grant, Key
from tests.unit.standins.s3.asking import Answer, ask, url_of
from tests.unit.standins.s3.conftest import BUCKET, CONFIG, Clock

ROLE = "arn:aws:iam::123456789012:role/reader"
ROLES = "/latest/meta-data/iam/security-credentials/"
FORM = "application/x-www-form-urlencoded"


@pytest.fixture(autouse=True)
def roles(s3: S3) -> None:
    s3.sts.roles = {ROLE}
    s3.sts.tokens.rotate("web-1")
    s3.pod_identity.tokens.rotate("pod-1")


def assume(s3: S3, **changes: str) -> Answer:
    form = {"Action": "AssumeRoleWithWebIdentity", "Version": "2011-06-15", "RoleSessionName": "here"}
    form |= {"RoleArn": ROLE, "WebIdentityToken": "web-1", **changes}
    return ask(f"{s3.sts_endpoint}/?{urlencode(form)}", "POST")


def assumed(answer: Answer) -> Key:
    names = ("AccessKeyId", "SecretAccessKey", "SessionToken")
    id, secret, token = (str(answer.element(name)) for name in names)
    return Key(id, secret, token)


def told(answer: Answer) -> Key:
    return Key(answer.json["AccessKeyId"], answer.json["SecretAccessKey"], answer.json["Token"])


def pod_keys(s3: S3, token: str | None = "pod-1") -> Answer:
    return ask(s3.pod_identity_uri, Authorization=token) if token else ask(s3.pod_identity_uri)


def session(s3: S3, seconds: str = "60") -> Answer:
    url = f"{s3.metadata_endpoint}/latest/api/token"
    return ask(url, "PUT", X_aws_ec2_metadata_token_ttl_seconds=seconds)


def metadata(s3: S3, path: str, token: str | None = None) -> Answer:
    token = session(s3).body.decode() if token is None else token
    return ask(f"{s3.metadata_endpoint}{path}", X_aws_ec2_metadata_token=token)


def reading(s3: S3, key: Key) -> tuple[int, str | None]:
    answer = ask(url_of(s3.endpoint, BUCKET, CONFIG), signed=key)
    return answer.status, answer.element("Code") if answer.status != 200 else None


def test_sts_gives_keys_that_open_the_bucket_for_a_while(s3: S3, clock: Clock) -> None:
    s3.sts.lifetime_seconds = 5
    key = assumed(assume(s3, DurationSeconds="3600"))
    assert reading(s3, key) == (200, None)
    clock.moved_seconds = 6
    assert reading(s3, key) == (400, "ExpiredToken")
    assert s3.sts.num_issued == 1


def test_sts_takes_a_form_too(s3: S3) -> None:
    form = {"Action": "AssumeRoleWithWebIdentity", "RoleSessionName": "a", "RoleArn": ROLE, "WebIdentityToken": "web-1"}
    answer = ask(s3.sts_endpoint, "POST", body=urlencode(form).encode(), Content_Type=FORM)
    assert reading(s3, assumed(answer)) == (200, None)


def test_what_was_assumed_has_the_rights_of_the_role(s3: S3, bucket: Bucket) -> None:
    bucket.grants[ROLE] = Grant(may_get=False)
    assert reading(s3, assumed(assume(s3))) == (403, "AccessDenied")


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"WebIdentityToken": "other"}, (400, "InvalidIdentityToken")),
        ({"WebIdentityToken": ""}, (400, "ValidationError")),
        ({"RoleArn": f"{ROLE}s"}, (403, "AccessDenied")),
        ({"Action": "GetCallerIdentity"}, (400, "InvalidAction")),
    ],
)
def test_sts_refuses(s3: S3, changes: dict[str, str], error: tuple[int, str]) -> None:
    assert assume(s3, **changes).error == error
    assert s3.sts.num_issued == 0


def test_a_web_identity_token_that_was_rotated_has_expired(s3: S3) -> None:
    s3.sts.tokens.rotate("web-2")
    assert assume(s3).error == (400, "ExpiredTokenException")
    assert assume(s3, WebIdentityToken="web-2").status == 200
    s3.sts.tokens.rotate("web-1")
    assert assume(s3).status == 200


def test_tokens_of_a_cluster_are_what_the_cluster_says(s3: S3) -> None:
    for issuer in (s3.sts, s3.pod_identity):
        issuer.tokens.accepts = {"of-the-cluster"}.__contains__
    assert (assume(s3, WebIdentityToken="of-the-cluster").status, pod_keys(s3, "of-the-cluster").status) == (200, 200)
    assert assume(s3, WebIdentityToken="other").error == (400, "InvalidIdentityToken")
    assert b"(InvalidTokenException)" in pod_keys(s3, "other").body


def test_pod_identity_gives_keys_for_the_content_of_the_token_file(s3: S3, clock: Clock) -> None:
    s3.pod_identity.lifetime_seconds = 5
    answer = pod_keys(s3)
    assert set(answer.json) == {"AccessKeyId", "SecretAccessKey", "Token", "AccountId", "Expiration"}
    assert reading(s3, told(answer)) == (200, None)
    clock.moved_seconds = 6
    assert reading(s3, told(answer)) == (400, "ExpiredToken")


def test_pod_identity_refuses(s3: S3) -> None:
    assert (pod_keys(s3, None).status, pod_keys(s3, "other").status) == (400, 400)
    assert b"(InvalidTokenException)" in pod_keys(s3, "other").body
    s3.pod_identity.tokens.rotate("pod-2")
    assert b"(ExpiredTokenException)" in pod_keys(s3).body
    assert pod_keys(s3, "pod-2").status == 200
    assert ask(s3.pod_identity_uri.replace("/v1/", "/v2/"), Authorization="pod-2").status == 404


def test_metadata_gives_keys_of_the_instances_role(s3: S3) -> None:
    assert metadata(s3, ROLES).body == b"node-role"
    answer = metadata(s3, f"{ROLES}node-role")
    assert answer.json["Code"] == "Success"
    assert reading(s3, told(answer)) == (200, None)


def test_metadata_is_told_to_who_has_a_session_alone(s3: S3, clock: Clock) -> None:
    assert metadata(s3, ROLES, token="other").status == 401
    token = session(s3, "5").body.decode()
    assert metadata(s3, ROLES, token).status == 200
    clock.moved_seconds = 6
    assert metadata(s3, ROLES, token).status == 401
    assert [session(s3, seconds).status for seconds in ("0", "x", "21601")] == [400, 400, 400]
    assert ask(f"{s3.metadata_endpoint}/latest/api/token").status == 405


def test_an_instance_may_have_no_role(s3: S3) -> None:
    s3.metadata.role = None
    assert metadata(s3, ROLES).status == metadata(s3, f"{ROLES}node-role").status == 404


def test_calls_are_counted_and_no_token_is_kept(s3: S3) -> None:
    assume(s3)
    pod_keys(s3)
    metadata(s3, ROLES)
    assert [record.origin for record in s3.requests] == ["sts", "pod-identity", "metadata", "metadata"]
    assert (s3.requests.count(origin="sts"), s3.requests.count(origin="metadata", method="PUT")) == (1, 1)
    text = str(s3.requests.described())
    assert "web-1" not in text
    assert "pod-1" not in text
