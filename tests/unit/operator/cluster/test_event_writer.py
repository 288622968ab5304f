import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, cast

import pytest

from neuronmodel_operator.cluster import event_writer
from neuronmodel_operator.cluster.client import Api, ApiError, Kind
from neuronmodel_operator.cluster.event_writer import MAX_ATTEMPTS, MAX_UNANSWERED, MAX_WAITING, EventWriter
from neuronmodel_operator.state.plan import EventNote

MODEL = {"metadata": {"namespace": "demo", "name": "smol", "uid": "uid-model", "resourceVersion": "1"}}
WARNING = EventNote("Warning", "ImagePullFailed", "There is no such image.")
OTHER = EventNote("Normal", "Ready", "Loaded in 1.0 s.")
BUSY = ApiError(429, "TooManyRequests", "slow down")
Object = dict[str, Any]


class Server:
    """Keeps Events, and answers each creation with the next of these errors, if there is one."""

    def __init__(self, *answers: Exception | None) -> None:
        self.answers = list(answers)
        self.writes_silently = False
        self.events: dict[str, Object] = {}

    async def create(self, kind: Kind, namespace: str, manifest: Mapping[str, Any]) -> Object:
        answer = self.answers.pop(0) if self.answers else None
        name = manifest["metadata"]["name"]
        if answer is not None and not self.writes_silently:
            raise answer
        if name in self.events:
            raise ApiError(409, "AlreadyExists", "it exists")
        self.events[name] = dict(manifest)
        if answer is not None:
            raise answer
        return dict(manifest)

    async def get(self, kind: Kind, namespace: str, name: str) -> Object:
        return self.events[name]

    async def merge(self, kind: Kind, namespace: str, name: str, patch: Mapping[str, Any]) -> Object:
        self.events[name] |= patch
        return self.events[name]

    @property
    def written(self) -> list[tuple[str, int]]:
        return [(event["reason"], event["count"]) for event in self.events.values()]


class Passes:
    def __init__(self, server: Server) -> None:
        self.warnings: list[str] = []
        self.minute = 0
        self.writer = EventWriter(
            cast(Api, server),
            "demo",
            now=lambda: datetime(2026, 1, 1, 0, self.minute, tzinfo=UTC),
            check_stopping=lambda: None,
            log_warning=lambda message, *arguments: self.warnings.append(message % arguments),
        )

    async def write(self, *notes: EventNote) -> None:
        await self.writer.write(notes, MODEL)


@pytest.mark.parametrize(
    "answer",
    [TimeoutError(), BUSY, ApiError(0, "NoAnswer", "connection reset"), ApiError(503, "ServiceUnavailable", "not now")],
    ids=lambda answer: type(answer).__name__ + str(getattr(answer, "status", "")),
)
async def test_an_event_that_a_busy_server_did_not_take_is_written_by_a_later_pass(answer: Exception) -> None:
    server = Server(answer)
    tested = Passes(server)
    await tested.write(WARNING)
    assert server.written == []
    assert tested.writer.retry_in
    assert [each for each in tested.warnings if "a later pass tries again" in each] == tested.warnings != []
    await tested.write()
    assert server.written == [("ImagePullFailed", 1)]
    assert tested.writer.retry_in is None


async def test_an_event_that_was_written_without_an_answer_is_counted_once() -> None:
    server = Server(TimeoutError())
    server.writes_silently = True
    tested = Passes(server)
    await tested.write(WARNING)
    tested.minute = 1
    await tested.write()
    assert server.written == [("ImagePullFailed", 1)]
    await tested.write(WARNING)
    assert server.written == [("ImagePullFailed", 2)]


async def test_an_event_that_is_repeated_within_a_second_is_counted() -> None:
    server = Server()
    tested = Passes(server)
    await tested.write(WARNING)
    await tested.write(WARNING)
    assert server.written == [("ImagePullFailed", 2)]


async def test_an_event_that_is_refused_is_logged_and_not_tried_again() -> None:
    server = Server(ApiError(403, "Forbidden", "not on a Friday"))
    tested = Passes(server)
    await tested.write(WARNING, OTHER)
    await tested.write()
    assert server.written == [("Ready", 1)]
    assert tested.warnings == ["Event ImagePullFailed was not written: not on a Friday"]


async def test_nothing_is_written_or_logged_about_a_namespace_that_is_being_removed() -> None:
    server = Server(ApiError(403, "Forbidden", "it is going", causes=frozenset({"NamespaceTerminating"})))
    tested = Passes(server)
    await tested.write(WARNING)
    await tested.write()
    assert server.written == []
    assert tested.warnings == []


async def test_attempts_end() -> None:
    server = Server(*[BUSY] * MAX_ATTEMPTS)
    tested = Passes(server)
    await tested.write(WARNING)
    for _ in range(MAX_ATTEMPTS):
        await tested.write()
    assert server.answers == []
    assert server.written == []
    assert tested.writer.retry_in is None
    assert len(tested.warnings) == 2
    assert f"was not written in {MAX_ATTEMPTS} attempts: slow down" in tested.warnings[1]


async def test_an_api_server_in_trouble_is_not_asked_for_one_event_after_the_other() -> None:
    """Each pass of an outage would try all that wait: more than a hundred writes within a minute."""
    notes = [EventNote("Normal", f"Reason{number}", "A sentence.") for number in range(12)]
    server = Server(*[BUSY] * 3 * MAX_UNANSWERED)
    tested = Passes(server)
    await tested.write(*notes)
    for left in (2, 1, 0):
        assert len(server.answers) == left * MAX_UNANSWERED
        await tested.write()
    assert {reason for reason, _ in server.written} == {note.reason for note in notes}


async def test_not_more_wait_than_may() -> None:
    notes = [EventNote("Normal", f"Reason{number}", "A sentence.") for number in range(MAX_WAITING + 5)]
    server = Server(*[BUSY] * MAX_UNANSWERED)
    tested = Passes(server)
    await tested.write(*notes)
    assert len([each for each in tested.warnings if "too many others" in each]) == 5
    await tested.write()
    assert len(server.written) == MAX_WAITING


async def test_events_that_wait_delay_no_pass_beyond_its_share(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_writer, "PASS_SECONDS", 0.05)
    monkeypatch.setattr(event_writer, "LEAST_EVENT_SECONDS", 0.01)
    server = Server(*[BUSY] * MAX_UNANSWERED)
    tested = Passes(server)
    await tested.write(WARNING, OTHER, EventNote("Normal", "Scaled", "From 1 to 2 workers."))
    asked: list[str] = []

    async def silent(kind: Kind, namespace: str, manifest: Mapping[str, Any]) -> Object:
        asked.append(manifest["reason"])
        await asyncio.Event().wait()
        return {}

    monkeypatch.setattr(server, "create", silent)
    await tested.write()
    assert asked == ["ImagePullFailed"]
    monkeypatch.undo()
    await tested.write()
    assert {reason for reason, _ in server.written} == {"ImagePullFailed", "Ready", "Scaled"}
