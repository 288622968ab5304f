"""Who may list and get what."""

import pytest

from tests.standins.s3 import S3, Bucket, Grant, Key
from tests.unit.standins.s3.asking import Answer, Signing, ask, url_of
from tests.unit.standins.s3.conftest import BUCKET, CONFIG

LISTING_ALONE, READING_ALONE = Grant(may_get=False), Grant(may_list=False)
DENIED = (403, "AccessDenied")
PAYS = {"x-amz-request-payer": "requester"}


def listing(s3: S3, key: Key | None = None) -> Answer:
    return ask(url_of(s3.endpoint, BUCKET, list_type="2"), signed=key)


def reading(s3: S3, key: Key | None = None, name: str = CONFIG) -> Answer:
    return ask(url_of(s3.endpoint, BUCKET, name), signed=key)


def bucket_head(s3: S3, key: Key | Signing | None = None, bucket: str = BUCKET) -> tuple[int, str | None]:
    answer = ask(url_of(s3.endpoint, bucket), "HEAD", signed=key)
    return answer.status, answer.headers["x-amz-bucket-region"]


def test_a_key_may_list_and_get_where_nothing_else_is_said(s3: S3, key: Key) -> None:
    assert [listing(s3, key).status, reading(s3, key).status] == [200, 200]


def test_without_a_key_nothing_is_told(s3: S3) -> None:
    assert [listing(s3).error, reading(s3).error, reading(s3, name="missing").error] == [DENIED] * 3


def test_a_public_bucket_is_for_everybody(s3: S3, bucket: Bucket) -> None:
    bucket.public = Grant()
    assert [listing(s3).status, reading(s3).status] == [200, 200]
    assert reading(s3, name="missing").error == (404, "NoSuchKey")


def test_a_wrong_key_is_refused_on_a_public_bucket_too(s3: S3, bucket: Bucket) -> None:
    bucket.public = Grant()
    assert reading(s3, Key("AKIANOBODY", "secret")).error == (403, "InvalidAccessKeyId")


def test_who_may_not_list_is_not_told_what_is_missing(s3: S3, bucket: Bucket, key: Key) -> None:
    bucket.grants[key.principal] = READING_ALONE
    assert listing(s3, key).error == DENIED
    assert reading(s3, key).status == 200
    assert reading(s3, key, "missing").error == DENIED
    bucket.public = READING_ALONE
    assert reading(s3, name="missing").error == DENIED


def test_who_may_not_get_may_list(s3: S3, bucket: Bucket, key: Key) -> None:
    bucket.grants[key.principal] = LISTING_ALONE
    assert listing(s3, key).status == 200
    assert reading(s3, key).error == reading(s3, key, "missing").error == DENIED


def test_rights_are_a_principals_whatever_key_it_has(s3: S3, bucket: Bucket) -> None:
    bucket.grants["reader"] = READING_ALONE
    for key in (s3.add_key(principal="reader"), s3.add_temporary_key("reader")):
        assert [listing(s3, key).error, reading(s3, key).status] == [DENIED, 200]


def test_rights_change_at_run_time(s3: S3, bucket: Bucket, key: Key) -> None:
    bucket.grants[key.principal] = READING_ALONE
    assert listing(s3, key).error == DENIED
    del bucket.grants[key.principal]
    assert listing(s3, key).status == 200


def test_the_requester_has_to_pay(s3: S3, bucket: Bucket, key: Key) -> None:
    bucket.requester_pays = True
    assert [listing(s3, key).error, reading(s3, key).error] == [DENIED, DENIED]
    for url in (url_of(s3.endpoint, BUCKET, CONFIG), url_of(s3.endpoint, BUCKET, list_type="2")):
        answer = ask(url, signed=Signing(key, extra=PAYS))
        assert (answer.status, answer.headers["x-amz-request-charged"]) == (200, "requester")
    assert [record.pays for record in s3.requests] == [False, False, True, True]


def test_who_has_no_key_cannot_pay(s3: S3, bucket: Bucket) -> None:
    bucket.requester_pays, bucket.public = True, Grant()
    assert ask(url_of(s3.endpoint, BUCKET, CONFIG), x_amz_request_payer="requester").error == DENIED


@pytest.mark.parametrize("redirects", [False, True])
def test_the_region_of_a_bucket_is_told_to_everybody(s3: S3, bucket: Bucket, key: Key, redirects: bool) -> None:
    bucket.region, bucket.redirects = "eu-west-1", redirects
    assert bucket_head(s3) == (403, "eu-west-1")
    assert bucket_head(s3, Key("AKIANOBODY", "secret"))[1] == "eu-west-1"
    assert bucket_head(s3, key) == (301 if redirects else 400, "eu-west-1")
    assert bucket_head(s3, Signing(key, region="eu-west-1")) == (200, "eu-west-1")


def test_a_bucket_that_is_not_there_has_no_region(s3: S3, key: Key) -> None:
    assert bucket_head(s3, key, "missing") == bucket_head(s3, None, "missing") == (404, None)
