"""Each fault as a client meets it, and which requests meet it."""

import http.client
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.standins.hub import Hub
from tests.unit.standins.hub.asking import ask, connect
from tests.unit.standins.hub.conftest import NUM_BYTES, REPOSITORY, WEIGHTS, file_url
from tests.waiting import until

TEN = "bytes=100-109"


@pytest.mark.parametrize("status", [500, 502, 503])
def test_a_status(hub: Hub, signed: str, status: int) -> None:
    hub.faults.add(origin="cdn", status=status)
    assert ask(signed).status == status
    assert ask(file_url(hub, WEIGHTS)).status == 302


def test_429_with_the_time_to_wait(hub: Hub) -> None:
    hub.faults.add(status=429, set_headers={"Retry-After": "7"}, count=1)
    answer = ask(file_url(hub, WEIGHTS))
    assert (answer.status, answer.headers["Retry-After"]) == (429, "7")
    assert ask(file_url(hub, WEIGHTS)).status == 302


def test_the_connection_is_cut_before_the_headers(hub: Hub, signed: str) -> None:
    hub.faults.add(cut_before_headers=True, count=1)
    with pytest.raises(http.client.RemoteDisconnected):
        ask(signed)
    assert ask(signed).status == 200


def test_the_connection_is_reset(hub: Hub, signed: str) -> None:
    hub.faults.add(cut_before_headers=True, reset=True)
    with pytest.raises(ConnectionResetError):
        ask(signed)


def test_the_connection_is_cut_in_the_body(hub: Hub, signed: str, weights: bytes) -> None:
    hub.faults.add(cut_after_bytes=5)
    with pytest.raises(http.client.IncompleteRead) as raised:
        ask(signed, Range=TEN)
    assert raised.value.partial == weights[100:105]
    assert raised.value.expected == 5


def test_a_body_is_short_with_the_length_of_what_is_sent(hub: Hub, signed: str, weights: bytes) -> None:
    hub.faults.add(short_by=3)
    answer = ask(signed, Range=TEN)
    assert (answer.status, answer.body) == (206, weights[100:107])
    assert answer.headers["Content-Length"] == "7"
    assert answer.headers["Content-Range"] == f"bytes 100-109/{NUM_BYTES}"


def test_a_range_is_answered_with_the_whole_file(hub: Hub, signed: str, weights: bytes) -> None:
    hub.faults.add(ignore_range=True)
    answer = ask(signed, Range=TEN)
    assert (answer.status, answer.body, answer.headers["Content-Range"]) == (200, weights, None)


def test_bytes_are_wrong_and_their_number_right(hub: Hub, signed: str, weights: bytes) -> None:
    hub.faults.add(corrupt=True)
    part, whole = ask(signed, Range=TEN).body, ask(signed).body
    assert [sent == right for sent, right in zip(part, weights[100:110], strict=True)].count(False) == 1
    assert len(whole) == NUM_BYTES
    assert whole != weights


def test_the_content_range_is_of_other_bytes(hub: Hub, signed: str) -> None:
    hub.faults.add(set_headers={"Content-Range": f"bytes 0-9/{NUM_BYTES}"})
    assert ask(signed, Range=TEN).headers["Content-Range"] == f"bytes 0-9/{NUM_BYTES}"


def test_headers_are_missing_as_behind_a_mirror(hub: Hub) -> None:
    hub.faults.add(origin="hub", drop_headers=("x-repo-commit", "ETag", "X-Linked-ETag"))
    answer = ask(file_url(hub, WEIGHTS))
    assert answer.status == 302
    assert answer.headers["X-Repo-Commit"] is answer.headers["X-Linked-ETag"] is None
    assert answer.headers["X-Linked-Size"] == str(NUM_BYTES)


def test_something_that_is_no_hub_answers_with_a_page(hub: Hub) -> None:
    hub.faults.add(html=True)
    answer = ask(f"{hub.endpoint}/api/models/{REPOSITORY}")
    assert (answer.status, answer.headers.get_content_type()) == (200, "text/html")


def test_headers_are_waited_for_until_the_rule_is_gone(hub: Hub, signed: str) -> None:
    rule = hub.faults.add(delay_seconds=3600)
    with ThreadPoolExecutor(1) as threads:
        asked = threads.submit(ask, signed)
        until(lambda: rule.num_used == 1)
        assert not asked.done()
        assert [record.status for record in hub.requests.matching(origin="cdn")] == [None]
        hub.faults.remove(rule.number)
        assert asked.result().status == 200


def test_a_body_stalls_in_the_middle_until_the_rule_is_gone(hub: Hub, signed: str, weights: bytes) -> None:
    rule = hub.faults.add(stall_after_bytes=1000)
    connection = connect(signed)
    connection.request("GET", signed.removeprefix(hub.cdn))
    response = connection.getresponse()
    assert response.read(1000) == weights[:1000]
    until(lambda: [record.bytes_sent for record in hub.requests.matching(origin="cdn")] == [1000], "a count")
    hub.faults.remove(rule.number)
    assert response.read() == weights[1000:]
    connection.close()


def test_a_rate_is_shared_by_all_connections(hub: Hub, signed: str, weights: bytes) -> None:
    hub.faults.add(origin="cdn", bytes_per_second=2 * NUM_BYTES)
    began = time.monotonic()
    with ThreadPoolExecutor(2) as threads:
        assert list(threads.map(lambda _: ask(signed).body, range(2))) == [weights, weights]
    assert time.monotonic() - began >= 0.9, "twice the bytes of half a second"


def test_a_rule_is_for_a_method_and_a_path(hub: Hub, signed: str) -> None:
    hub.faults.add(method="HEAD", path="*/config.json", status=503)
    assert ask(file_url(hub, "config.json"), "HEAD").status == 503
    assert ask(file_url(hub, "config.json"), "GET").status == 307
    assert ask(file_url(hub, "README.md"), "HEAD").status == 307


def test_a_file_is_found_at_the_cdn_by_its_name(hub: Hub, signed: str) -> None:
    hub.faults.add(origin="cdn", path="model-*.safetensors", status=503)
    assert ask(signed).status == 503


def test_a_rule_is_for_the_nth_request(hub: Hub, signed: str) -> None:
    hub.faults.add(nth=3, status=500)
    assert [ask(signed).status for _ in range(5)] == [200, 200, 500, 200, 200]


def test_a_rule_ends_after_a_number_of_requests(hub: Hub, signed: str) -> None:
    hub.faults.add(count=2, status=500)
    assert [ask(signed).status for _ in range(4)] == [500, 500, 200, 200]


def test_a_probability_gives_the_same_with_the_same_seed(hub: Hub, signed: str) -> None:
    seen = []
    for _ in range(2):
        hub.faults.clear()
        hub.faults.add(probability=0.5, seed=4, status=500)
        seen.append([ask(signed).status for _ in range(20)])
    assert seen[0] == seen[1]
    assert set(seen[0]) == {200, 500}


def test_rules_meet_in_one_request(hub: Hub, signed: str) -> None:
    hub.faults.add(short_by=1)
    hub.faults.add(drop_headers=("ETag",))
    answer = ask(signed, Range=TEN)
    assert (len(answer.body), answer.headers["ETag"]) == (9, None)


def test_a_rule_of_an_unknown_kind_is_an_error(hub: Hub) -> None:
    with pytest.raises(TypeError, match="no_such_fault"):
        hub.faults.add(no_such_fault=1)


def test_down_refuses_connections_and_ends_those_that_are_open(hub: Hub, signed: str) -> None:
    hub.faults.add(stall_after_bytes=10, count=1)
    connection = connect(signed)
    connection.request("GET", signed.removeprefix(hub.cdn))
    response = connection.getresponse()
    assert len(response.read(10)) == 10
    hub.down()
    with pytest.raises((http.client.IncompleteRead, ConnectionError)):
        response.read()
    for url in (signed, hub.endpoint):
        with pytest.raises(ConnectionRefusedError):
            ask(url)
    hub.up()
    assert ask(signed).status == 200, "at the same port, with the same signatures"


def test_nothing_is_left_of_a_hub_that_has_ended(hub: Hub) -> None:
    names = {thread.name for thread in threading.enumerate()}
    with Hub() as other:
        assert other.is_up
        url = other.endpoint
    with pytest.raises(ConnectionRefusedError):
        ask(url)
    until(lambda: {thread.name for thread in threading.enumerate()} <= names)


def test_a_fault_can_be_for_ranges_from_a_byte_on(hub: Hub, signed: str) -> None:
    hub.faults.add(first_byte=100, status=503)
    assert ask(signed, Range="bytes=99-109").status == 206
    assert ask(signed, Range=TEN).status == 503
    assert ask(signed).status == 200
