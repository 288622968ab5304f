"""ListObjectsV2."""

from urllib.parse import unquote

import pytest

from tests.standins.s3 import S3, Bucket, Key
from tests.unit.standins.s3.asking import Answer, ask, url_of
from tests.unit.standins.s3.conftest import BUCKET, CONFIG, NUM_BYTES, WEIGHTS

PARAMS = "llama/original/params.json"


def listed(s3: S3, key: Key, **parameters: str) -> Answer:
    return ask(url_of(s3.endpoint, BUCKET, list_type="2", **parameters), signed=key)


def prefixes(answer: Answer) -> list[str]:
    """Common ones, without the one that was asked for."""
    return answer.elements("Prefix")[1:]


def pages(s3: S3, key: Key, **parameters: str) -> list[Answer]:
    found = [listed(s3, key, **parameters)]
    while token := found[-1].element("NextContinuationToken"):
        found.append(listed(s3, key, continuation_token=token, **parameters))
    return found


def test_keys_are_listed_with_their_state_in_order(s3: S3, bucket: Bucket, key: Key) -> None:
    answer = listed(s3, key)
    assert answer.elements("Key") == [CONFIG, WEIGHTS, PARAMS]
    assert answer.elements("Size")[1] == str(NUM_BYTES)
    assert answer.elements("ETag") == [f'"{found.etag}"' for found in bucket]
    assert (answer.element("KeyCount"), answer.element("IsTruncated")) == ("3", "false")
    assert b"VersionId" not in answer.body


def test_order_is_that_of_bytes(s3: S3, bucket: Bucket, key: Key) -> None:
    for name in ("é", "Z", "a", "~", "\U0001f600", "\uffee"):
        bucket.put(f"order/{name}", b"")
    assert listed(s3, key, prefix="order/").elements("Key") == [
        f"order/{name}" for name in ("Z", "a", "~", "é", "\uffee", "\U0001f600")
    ]


def test_a_prefix_may_end_anywhere(s3: S3, key: Key) -> None:
    assert listed(s3, key, prefix="llama/con").elements("Key") == [CONFIG]
    assert listed(s3, key, prefix="llam").element("KeyCount") == "3"
    assert listed(s3, key, prefix="none/").element("KeyCount") == "0"


def test_a_delimiter_makes_one_entry_of_what_is_below(s3: S3, key: Key) -> None:
    answer = listed(s3, key, prefix="llama/", delimiter="/")
    assert answer.elements("Key") == [CONFIG, WEIGHTS]
    assert prefixes(answer) == ["llama/original/"]
    assert prefixes(listed(s3, key, delimiter="/")) == ["llama/"]


def test_a_folders_own_object_is_listed(s3: S3, bucket: Bucket, key: Key) -> None:
    bucket.put("llama/", b"")
    assert listed(s3, key, prefix="llama/", delimiter="/").elements("Key")[0] == "llama/"


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_pages_together_have_everything_once(s3: S3, bucket: Bucket, key: Key, size: int) -> None:
    bucket.put("llama/z.json", b"")
    bucket.put("other/a.json", b"")
    s3.settings.page_size = size
    found = pages(s3, key)
    assert [name for page in found for name in page.elements("Key")] == [one.key for one in bucket]
    assert [page.element("IsTruncated") for page in found] == ["true"] * (len(found) - 1) + ["false"]
    assert len(found) == -(-5 // size)


def test_pages_go_on_behind_a_common_prefix(s3: S3, bucket: Bucket, key: Key) -> None:
    bucket.put("llama/original/z.json", b"")
    found = pages(s3, key, prefix="llama/", delimiter="/", max_keys="1")
    assert [page.elements("Key") + prefixes(page) for page in found] == [[CONFIG], [WEIGHTS], ["llama/original/"]]


def test_a_page_has_at_most_what_was_asked_for_and_what_the_server_gives(s3: S3, bucket: Bucket, key: Key) -> None:
    for number in range(1001):
        bucket.put(f"many/{number:04}", b"")
    assert listed(s3, key, prefix="many/", max_keys="5000").element("KeyCount") == "1000"
    assert listed(s3, key, prefix="many/", max_keys="7").element("KeyCount") == "7"
    assert listed(s3, key, prefix="many/", max_keys="0").element("IsTruncated") == "false"


def test_a_listing_begins_after_a_key(s3: S3, key: Key) -> None:
    assert listed(s3, key, start_after=CONFIG).elements("Key") == [WEIGHTS, PARAMS]


def test_names_are_escaped_or_quoted(s3: S3, bucket: Bucket, key: Key) -> None:
    name = "odd/<a> & b+é.bin"
    bucket.put(name, b"")
    assert listed(s3, key, prefix="odd/").element("Key") == "odd/&lt;a&gt; &amp; b+é.bin"
    quoted = listed(s3, key, prefix="odd/<", encoding_type="url")
    assert unquote(str(quoted.element("Key"))) == name
    assert quoted.element("Key") != name
    assert (quoted.element("EncodingType"), quoted.element("Prefix")) == ("url", "odd/%3C")


@pytest.mark.parametrize(
    "parameters", [{"max_keys": "x"}, {"max_keys": "-1"}, {"encoding_type": "x"}, {"continuation_token": "x"}]
)
def test_what_is_not_understood_is_refused(s3: S3, key: Key, parameters: dict[str, str]) -> None:
    assert listed(s3, key, **parameters).error == (400, "InvalidArgument")


def test_a_bucket_that_is_not_there_is_told(s3: S3, key: Key) -> None:
    answer = ask(url_of(s3.endpoint, "missing", list_type="2"), signed=key)
    assert answer.error == (404, "NoSuchBucket")
    assert answer.element("BucketName") == "missing"


def test_the_first_way_to_list_is_not_there(s3: S3, key: Key) -> None:
    assert ask(url_of(s3.endpoint, BUCKET), signed=key).error == (501, "NotImplemented")


def test_what_was_deleted_is_not_listed(s3: S3, bucket: Bucket, key: Key) -> None:
    bucket.versioned = True
    bucket.delete(CONFIG)
    assert listed(s3, key).elements("Key") == [WEIGHTS, PARAMS]
