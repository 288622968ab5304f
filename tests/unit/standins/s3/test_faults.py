"""Each fault as a client meets it, and which requests meet it."""

import http.client
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.standins.s3 import S3, Bucket, Grant
from tests.unit.standins.s3.asking import Answer, ask, connect, url_of
from tests.unit.standins.s3.conftest import BUCKET, CONFIG, NUM_BYTES, WEIGHTS, some_bytes
from tests.waiting import until

TEN = "bytes=100-109"


@pytest.fixture(autouse=True)
def public(bucket: Bucket) -> None:
    bucket.public = Grant()


def get(s3: S3, name: str = WEIGHTS, method: str = "GET", /, **headers: Any) -> Answer:
    return ask(url_of(s3.endpoint, BUCKET, name), method, **headers)


@pytest.mark.parametrize(
    ("code", "status"),
    [("SlowDown", 503), ("InternalError", 500), ("RequestTimeout", 400), ("ExpiredToken", 400), ("Odd", 400)],
)
def test_an_error_of_s3s(s3: S3, code: str, status: int) -> None:
    s3.faults.add(code=code)
    assert get(s3).error == (status, code)


def test_an_error_with_another_status_and_message(s3: S3) -> None:
    s3.faults.add(code="SlowDown", status=429, message="Not <now>", set_headers={"Retry-After": "7"}, count=1)
    answer = get(s3)
    assert answer.error == (429, "SlowDown")
    assert (answer.element("Message"), answer.headers["Retry-After"]) == ("Not &lt;now&gt;", "7")
    assert get(s3).status == 200


def test_a_status_with_a_body_of_something_that_is_no_s3(s3: S3) -> None:
    s3.faults.add(status=200, body="<html>Sign in</html>", content_type="text/html")
    answer = get(s3)
    assert (answer.status, answer.body, answer.headers["Content-Type"]) == (200, b"<html>Sign in</html>", "text/html")


def test_the_connection_is_cut_before_the_headers(s3: S3) -> None:
    s3.faults.add(cut_before_headers=True, count=1)
    with pytest.raises(http.client.RemoteDisconnected):
        get(s3)
    assert get(s3).status == 200


def test_the_connection_is_reset(s3: S3) -> None:
    s3.faults.add(cut_before_headers=True, reset=True)
    with pytest.raises(ConnectionResetError):
        get(s3)


def test_the_connection_is_cut_in_the_body(s3: S3, weights: bytes) -> None:
    s3.faults.add(cut_after_bytes=5)
    with pytest.raises(http.client.IncompleteRead) as raised:
        get(s3, Range=TEN)
    assert raised.value.partial == weights[100:105]
    assert raised.value.expected == 5


def test_a_body_is_short_with_the_length_of_what_is_sent(s3: S3, weights: bytes) -> None:
    s3.faults.add(short_by=3)
    answer = get(s3, Range=TEN)
    assert (answer.status, answer.body, answer.headers["Content-Length"]) == (206, weights[100:107], "7")
    assert answer.headers["Content-Range"] == f"bytes 100-109/{NUM_BYTES}"


def test_a_range_is_answered_with_the_whole_object(s3: S3, weights: bytes) -> None:
    s3.faults.add(ignore_range=True)
    answer = ask(url_of(s3.endpoint, BUCKET, WEIGHTS), signed=s3.add_key(), Range=TEN)
    assert (answer.status, answer.body, answer.headers["Content-Range"]) == (200, weights, None)


def test_bytes_are_wrong_and_their_number_right(s3: S3, weights: bytes) -> None:
    s3.faults.add(corrupt=True)
    part = get(s3, Range=TEN).body
    assert [sent == right for sent, right in zip(part, weights[100:110], strict=True)].count(False) == 1


def test_headers_are_other_ones_or_missing(s3: S3) -> None:
    s3.faults.add(set_headers={"Content-Range": f"bytes 0-9/{NUM_BYTES}"}, drop_headers=["etag"])
    answer = get(s3, Range=TEN)
    assert (answer.headers["Content-Range"], answer.headers["ETag"]) == (f"bytes 0-9/{NUM_BYTES}", None)


def test_headers_are_waited_for_until_the_rule_is_gone(s3: S3) -> None:
    rule = s3.faults.add(delay_seconds=3600)
    with ThreadPoolExecutor(1) as threads:
        asked = threads.submit(get, s3)
        until(lambda: rule.num_used == 1)
        assert not asked.done()
        s3.faults.remove(rule.number)
        assert asked.result().status == 200


@pytest.mark.parametrize("origin", ["s3", "sts", "pod-identity", "metadata"])
def test_a_black_hole_takes_a_request_and_never_answers(s3: S3, origin: str) -> None:
    urls = {"s3": s3.endpoint, "sts": s3.sts_endpoint, "pod-identity": s3.pod_identity_uri}
    rule = s3.faults.add(origin=origin, never_answers=True)
    with ThreadPoolExecutor(1) as threads:
        asked = threads.submit(ask, urls.get(origin, s3.metadata_endpoint), "PUT")
        until(lambda: rule.num_used == 1)
        assert not asked.done()
        assert [record.status for record in s3.requests] == [None]
        s3.faults.remove(rule.number)
        with pytest.raises(http.client.RemoteDisconnected):
            asked.result()


def test_a_body_stalls_in_the_middle_until_the_rule_is_gone(s3: S3, weights: bytes) -> None:
    rule = s3.faults.add(stall_after_bytes=1000)
    connection = connect(s3.endpoint)
    connection.request("GET", f"/{BUCKET}/{WEIGHTS}")
    response = connection.getresponse()
    assert response.read(1000) == weights[:1000]
    until(lambda: [record.bytes_sent for record in s3.requests] == [1000], "a count")
    s3.faults.remove(rule.number)
    assert response.read() == weights[1000:]
    connection.close()


def test_an_object_is_replaced_in_the_middle_of_a_run(s3: S3, weights: bytes) -> None:
    etag, new = get(s3, WEIGHTS, "HEAD").headers["ETag"], some_bytes(seed=1)
    s3.faults.add(operation="get", path="*.safetensors", replace_after_bytes=25, replace_with=new)
    assert [get(s3, Range=TEN, If_Match=etag).status for _ in range(4)] == [206, 206, 206, 412]
    assert get(s3, CONFIG).status == 200
    assert get(s3).body == new


def test_what_is_being_sent_stays_of_the_old_object(s3: S3, weights: bytes, tmp_path: Path) -> None:
    (tmp_path / "new").write_bytes(b"new")
    s3.faults.add(replace_after_bytes=1, replace_with=tmp_path / "new")
    assert get(s3).body == weights
    assert get(s3).body == b"new"


def test_a_rule_is_for_an_operation_and_a_path(s3: S3) -> None:
    s3.faults.add(operation="head", path="*/config.json", status=503)
    assert get(s3, CONFIG, "HEAD").status == 503
    assert get(s3, CONFIG).status == get(s3, WEIGHTS, "HEAD").status == 200
    s3.faults.add(operation="list", status=500)
    assert ask(url_of(s3.endpoint, BUCKET, list_type="2")).status == 500
    assert get(s3).status == 200


def test_a_rule_is_for_ranges_that_begin_late(s3: S3) -> None:
    s3.faults.add(first_byte=100, status=500)
    assert get(s3, Range=TEN).status == 500
    assert [get(s3, Range="bytes=99-").status, get(s3).status] == [206, 200]


def test_a_rule_is_for_the_nth_request_or_for_a_number_of_them(s3: S3) -> None:
    s3.faults.add(nth=3, status=500)
    assert [get(s3).status for _ in range(4)] == [200, 200, 500, 200]
    s3.faults.add(count=2, status=501)
    assert [get(s3).status for _ in range(3)] == [501, 501, 200]


def test_a_probability_gives_the_same_with_the_same_seed(s3: S3) -> None:
    seen = []
    for _ in range(2):
        s3.faults.clear()
        s3.faults.add(probability=0.5, seed=4, status=500)
        seen.append([get(s3, CONFIG).status for _ in range(20)])
    assert seen[0] == seen[1]
    assert set(seen[0]) == {200, 500}


def test_rules_meet_in_one_request(s3: S3) -> None:
    s3.faults.add(short_by=1)
    s3.faults.add(drop_headers=("ETag",))
    answer = get(s3, Range=TEN)
    assert (len(answer.body), answer.headers["ETag"]) == (9, None)


def test_a_rule_of_an_unknown_kind_is_an_error(s3: S3) -> None:
    with pytest.raises(TypeError, match="no_such_fault"):
        s3.faults.add(no_such_fault=1)


def test_down_refuses_connections_and_ends_those_that_are_open(s3: S3) -> None:
    s3.faults.add(stall_after_bytes=10, count=1)
    connection = connect(s3.endpoint)
    connection.request("GET", f"/{BUCKET}/{WEIGHTS}")
    response = connection.getresponse()
    assert len(response.read(10)) == 10
    s3.down()
    with pytest.raises((http.client.IncompleteRead, ConnectionError)):
        response.read()
    for url in (s3.endpoint, s3.sts_endpoint, s3.pod_identity_uri, s3.metadata_endpoint):
        with pytest.raises(ConnectionRefusedError):
            ask(url)
    s3.up()
    assert get(s3).status == 200, "at the same port"
    connection.close()


def test_nothing_is_left_of_one_that_has_ended(s3: S3) -> None:
    names = {thread.name for thread in threading.enumerate()}
    with S3() as other:
        assert other.is_up
        url = other.endpoint
    with pytest.raises(ConnectionRefusedError):
        ask(url)
    until(lambda: {thread.name for thread in threading.enumerate()} <= names)


def test_a_rate_is_waited_for_before_bytes_are_sent(s3: S3, weights: bytes) -> None:
    rule = s3.faults.add(bytes_per_second=1)
    with ThreadPoolExecutor(1) as threads:
        asked = threads.submit(get, s3)
        until(lambda: rule.num_used == 1)
        assert not asked.done()
        assert [record.bytes_sent for record in s3.requests] == [0]
        s3.faults.remove(rule.number)
        assert asked.result().body == weights
