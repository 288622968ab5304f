"""A stand-in as small as one can be: what it says of requests is enough to record them and to go wrong."""

import http.client
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Self
from urllib.parse import urlsplit

import pytest

from tests.standins.faulty_http import (
    ControlOrigin,
    Faults,
    FaultyServer,
    KnownAs,
    Records,
    Refusal,
    Request,
    RequestRecord,
    Response,
    text_response,
)
from tests.waiting import until


class Closed(Refusal):
    def response(self) -> Response:
        return Response(403, {"X-Reason": "closed"}, error="Closed")


class Shelf:
    """`/shelves/3/book` is the book, and `/closed` is refused."""

    name = "shelf"

    def answer(self, request: Request) -> Response:
        if request.path == "/closed":
            raise Closed
        return text_response(f"This is {request.segments[2]}.")

    def known_as(self, request: Request) -> KnownAs:
        return KnownAs(request.path.rpartition("/")[2], "lend" if request.method == "GET" else None)


@dataclass(kw_only=True)
class Loan(RequestRecord):
    book: str | None

    @classmethod
    def of(cls, request: Request, known: KnownAs) -> Self:
        return cls(**cls.common(request), book=known.name)

    @property
    def name(self) -> str | None:
        return self.book


class Library(FaultyServer):
    requests: Records[Loan]

    def __init__(self) -> None:
        super().__init__(Records(Loan), Faults(), ControlOrigin(self), "127.0.0.1", 0)
        self.shelf = self._serve(Shelf(), "127.0.0.1", 0, None)


@pytest.fixture
def library() -> Iterator[Library]:
    with Library() as library:
        yield library


def ask(url: str, method: str = "GET", given: Any = None) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=60)
    try:
        connection.request(method, urlsplit(url).path, None if given is None else json.dumps(given))
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def lend(library: Library, book: str = "emma", method: str = "GET") -> tuple[int, bytes]:
    return ask(f"{library.shelf.url}/shelves/3/{book}", method)


def test_a_request_is_recorded_and_found_by_its_further_name(library: Library) -> None:
    assert lend(library) == (200, b"This is emma.")
    (loan,) = library.requests.matching(path="emma")
    until(lambda: loan.done)
    assert (loan.book, loan.path, loan.status, loan.bytes_sent) == ("emma", "/shelves/3/emma", 200, 13)
    assert library.requests.count(path="persuasion") == 0


def test_a_fault_is_for_a_further_name_or_an_operation(library: Library) -> None:
    library.faults.add(path="emma", status=503)
    assert [lend(library)[0], lend(library, "persuasion")[0]] == [503, 200]
    library.faults.add(operation="lend", status=500)
    assert [lend(library, "persuasion")[0], lend(library, "persuasion", "POST")[0]] == [500, 200]


def test_a_refusal_is_answered_and_recorded_with_its_code(library: Library) -> None:
    assert ask(f"{library.shelf.url}/closed")[0] == 403
    assert [(loan.status, loan.error) for loan in library.requests] == [(403, "Closed")]


def test_any_other_exception_is_told(library: Library) -> None:
    status, body = ask(f"{library.shelf.url}/shelves")
    assert (status, b"IndexError" in body) == (500, True)


def test_an_answer_in_place_of_the_true_one_has_a_text_or_is_a_page(library: Library) -> None:
    library.faults.add(status=418, body="No coffee", count=1)
    assert lend(library) == (418, b"No coffee")
    library.faults.add(html=True)
    status, page = lend(library)
    assert (status, page.startswith(b"<!doctype html>")) == (200, True)


def test_a_rate_is_for_small_answers_too(library: Library) -> None:
    rule = library.faults.add(bytes_per_second=0.001)
    with ThreadPoolExecutor(1) as threads:
        asked = threads.submit(lend, library)
        until(lambda: rule.num_used == 1)
        assert not asked.done()
        library.faults.remove(rule.number)
        assert asked.result() == (200, b"This is emma.")


def test_other_processes_ask_and_change_it(library: Library) -> None:
    lend(library)
    assert json.loads(ask(f"{library.control}/requests")[1])["requests"][0]["book"] == "emma"
    assert ask(f"{library.control}/faults", "POST", {"status": 503})[0] == 200
    assert lend(library)[0] == 503
    assert ask(f"{library.control}/reset", "POST") == (200, b"{}")
    assert [lend(library)[0], len(library.requests)] == [200, 1]
    assert [ask(f"{library.control}/{path}", "POST")[0] for path in ("missing", "reset/more")] == [404, 404]
    assert ask(f"{library.control}/faults", "DELETE", {"id": 9})[0] == 400
    assert ask(f"{library.control}/down", "POST") == (200, b"{}")
    with pytest.raises(ConnectionRefusedError):
        lend(library)
    ask(f"{library.control}/up", "POST")
    assert lend(library)[0] == 200
