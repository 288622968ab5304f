"""Questions to workers that answer well, badly, slowly, too much, or for somebody else."""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from aiohttp import web

from neuronmodel_api import names
from neuronmodel_api.report import MAX_REPORT_BYTES, Report, Stage, State, parse_report
from neuronmodel_operator.cluster import worker_reports
from neuronmodel_operator.cluster.worker_reports import ReportCache, ReportClient, open_session
from tests.waiting import PATIENCE_SECONDS

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]
UID = "pod-1"
HASH = "abcdef"


def report(**changes: Any) -> Report:
    parts: dict[str, Any] = {
        "pod_uid": UID,
        "spec_hash": HASH,
        "stage": Stage.SERVE,
        "state": State.RUNNING,
        "started_at": datetime(2026, 1, 1, tzinfo=UTC),
    }
    return Report(**(parts | changes))


def as_json(report: Report) -> str:
    return json.dumps(report.to_json())


def pod(
    state: dict[str, Any] | None = None,
    last_state: dict[str, Any] | None = None,
    container: str = "containerd://1",
    annotation: str = names.ANNOTATION_TEMPLATE_HASH,
) -> dict[str, Any]:
    status = {
        "name": names.CONTAINER,
        "containerID": container,
        "state": state or {"running": {"startedAt": "2026-01-01T00:00:00Z"}},
        "lastState": last_state or {},
    }
    return {
        "kind": "Pod",
        "metadata": {"name": "smol-1", "uid": UID, "annotations": {annotation: HASH}},
        "status": {"podIP": "127.0.0.1", "containerStatuses": [status]},
    }


def ended(message: str) -> dict[str, Any]:
    return {"terminated": {"exitCode": 1, "message": message}}


class Worker:
    """An admin port on this machine."""

    def __init__(self) -> None:
        self.answer: Answer = self._silence
        self.paths: list[str] = []
        self.errors: Counter[str] = Counter()

    async def _silence(self, request: web.Request) -> web.StreamResponse:
        return web.Response(status=503)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.paths.append(request.path)
        return await self.answer(request)

    def says(self, text: str | bytes, status: int = 200, headers: dict[str, str] | None = None) -> None:
        async def answer(request: web.Request) -> web.StreamResponse:
            return web.Response(body=text, status=status, headers=headers)

        self.answer = answer


@pytest.fixture
async def worker() -> Worker:
    return Worker()


@pytest.fixture
async def reporter(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[ReportClient]:
    monkeypatch.setattr(worker_reports, "ANSWER_SECONDS", PATIENCE_SECONDS)
    app = web.Application()
    app.router.add_get("/{path:.*}", worker.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    async with open_session() as session:
        yield ReportClient(session, lambda why: worker.errors.update([why]), port=port)
    await runner.cleanup()


async def test_a_running_worker_is_asked_for_its_status(worker: Worker, reporter: ReportClient) -> None:
    worker.says(as_json(report()))
    assert parse_report(await reporter.ask(pod()) or b"") == report()
    assert worker.paths == ["/status"]
    assert not worker.errors


async def test_a_job_pod_is_known_by_its_inputs_hash(worker: Worker, reporter: ReportClient) -> None:
    worker.says(as_json(report()))
    assert parse_report(await reporter.ask(pod(annotation=names.ANNOTATION_INPUTS_HASH)) or b"") == report()


async def test_a_report_as_long_as_allowed_is_read_and_a_longer_one_is_not(
    worker: Worker, reporter: ReportClient
) -> None:
    text = as_json(report())
    worker.says(text.ljust(MAX_REPORT_BYTES))
    assert parse_report(await reporter.ask(pod()) or b"") == report()
    worker.says(text.ljust(MAX_REPORT_BYTES + 1))
    assert await reporter.ask(pod()) is None
    assert worker.errors == {"TooLong": 1}


async def test_an_answer_without_end_is_left_after_64_kib(worker: Worker, reporter: ReportClient) -> None:
    sent = 0

    async def pour(request: web.Request) -> web.StreamResponse:
        nonlocal sent
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(b" " * 65536)
            sent += 65536

    worker.answer = pour
    assert await reporter.ask(pod()) is None
    assert worker.errors == {"TooLong": 1}


async def test_an_answer_that_takes_too_long_is_given_up(
    worker: Worker, reporter: ReportClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def dribble(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(b" ")
            await asyncio.sleep(0.1)

    worker.answer = dribble
    monkeypatch.setattr(worker_reports, "ANSWER_SECONDS", 0.5)
    assert await reporter.ask(pod()) is None
    assert worker.errors == {"NoAnswer": 1}


async def test_a_redirect_is_not_followed(worker: Worker, reporter: ReportClient) -> None:
    worker.says(as_json(report()), status=302, headers={"Location": "/elsewhere"})
    assert await reporter.ask(pod()) is None
    assert worker.paths == ["/status"]


@pytest.mark.parametrize("junk", ["", "null", "[]", "<html>", '{"podUid": 1}', b"\xff\xfe", "[" * 5000])
async def test_junk_is_no_report(worker: Worker, reporter: ReportClient, junk: str | bytes) -> None:
    worker.says(junk)
    assert await reporter.ask(pod()) is None
    assert worker.errors == {"NotAReport": 1}


@pytest.mark.parametrize("other", [{"pod_uid": "pod-2"}, {"spec_hash": "fedcba"}])
async def test_a_report_of_another_pod_or_spec_is_dropped(
    worker: Worker, reporter: ReportClient, other: dict[str, str]
) -> None:
    worker.says(as_json(report(**other)))
    assert await reporter.ask(pod()) is None
    assert worker.errors == {"AnotherPod": 1}


async def test_a_packed_answer_is_not_unpacked(worker: Worker, reporter: ReportClient) -> None:
    worker.says(b"\x1f\x8b" + b"\0" * 100, headers={"Content-Encoding": "gzip"})
    assert await reporter.ask(pod()) is None
    assert worker.errors == {"NotAReport": 1}


async def test_a_pod_whose_owner_is_not_ours_is_not_asked(worker: Worker, reporter: ReportClient) -> None:
    worker.says(as_json(report()))
    collected = await ReportCache(reporter).collect([pod()], frozenset(), ask=True)
    assert collected.current == {}
    assert worker.paths == []


async def test_the_last_report_of_a_pod_is_kept_while_it_is_silent(worker: Worker, reporter: ReportClient) -> None:
    cache = ReportCache(reporter)
    worker.says(as_json(report()))
    await cache.collect([pod()], frozenset({UID}), ask=True)
    worker.says("", status=503)
    assert (await cache.collect([pod()], frozenset({UID}), ask=True)).current == {UID: report()}
    assert (await cache.collect([pod()], frozenset({UID}), ask=False)).current == {UID: report()}
    assert (await cache.collect([], frozenset(), ask=False)).current == {}


async def test_the_report_of_a_former_run_is_not_attributed_to_a_restarted_container(
    worker: Worker, reporter: ReportClient
) -> None:
    cache = ReportCache(reporter)
    worker.says(as_json(report()))
    await cache.collect([pod()], frozenset({UID}), ask=True)
    last_words = report(state=State.FAILED)
    restarted = pod(container="containerd://2", last_state=ended(last_words.termination_message()))
    worker.says("", status=503)
    worker_reports = await cache.collect([restarted], frozenset({UID}), ask=True)
    assert worker_reports.current == {}
    assert worker_reports.former == {UID: last_words}


async def test_a_container_that_waits_to_be_started_again_speaks_by_its_last_message(
    worker: Worker, reporter: ReportClient
) -> None:
    """An answer of the same run, from before it failed, says less."""
    cache = ReportCache(reporter)
    worker.says(as_json(report()))
    await cache.collect([pod()], frozenset({UID}), ask=True)
    last_words = report(state=State.FAILED)
    backing_off = pod(
        state={"waiting": {"reason": "CrashLoopBackOff"}}, last_state=ended(last_words.termination_message())
    )
    assert (await cache.collect([backing_off], frozenset({UID}), ask=True)).current == {UID: last_words}


async def test_whoever_answers_as_before_has_no_news_and_nor_has_whoever_does_not_answer(
    worker: Worker, reporter: ReportClient
) -> None:
    cache = ReportCache(reporter)
    assert not await cache.has_news(), "nobody has answered yet"
    worker.says(as_json(report()))
    await cache.collect([pod()], frozenset({UID}), ask=True)
    assert not await cache.has_news()
    worker.says("", status=503)
    assert not await cache.has_news()
    worker.says(as_json(report(state=State.DRAINING)))
    assert await cache.has_news()
    await cache.collect([pod()], frozenset({UID}), ask=True)
    assert not await cache.has_news()


async def test_an_ended_container_speaks_by_its_termination_message(reporter: ReportClient) -> None:
    last_words = report(stage=Stage.PREPARE, state=State.SUCCEEDED)
    finished = pod(state=ended(last_words.termination_message()))
    assert (await ReportCache(reporter).collect([finished], frozenset(), ask=False)).current == {UID: last_words}


@pytest.mark.parametrize("message", ["Killed", as_json(report(pod_uid="pod-2")), '{"podUid":"pod-1","specH'])
async def test_a_termination_message_that_is_no_report_of_this_pod_is_dropped(
    reporter: ReportClient, message: str
) -> None:
    worker_reports = await ReportCache(reporter).collect([pod(state=ended(message))], frozenset(), ask=False)
    assert worker_reports.current == {}


def phase(**changes: Any) -> dict[str, Any]:
    return {"name": "Read", "startedAt": "2026-01-01T00:00:00Z", "milliseconds": 1} | changes


@pytest.mark.parametrize(
    "changes",
    [
        {"startedAt": "2026-01-01T00:00:00"},
        {"phases": [phase(milliseconds=-1)]},
        {"phases": [phase(milliseconds=2**60)]},
        {"phases": [phase(name="two words")]},
        {"phases": [phase(bytes=2**63)]},
        {"phases": [phase()] * 65},
        {"progress": {"phase": "Read", "startedAt": "2026-01-01T00:00:00Z", "done": -5, "total": 10}},
        {"failure": {"reason": "two words", "message": "It failed."}},
        {"result": {"sourceFingerprint": "f", "modelType": "llama", "compiledKey": "c", "cache": "Perhaps"}},
    ],
    ids=str,
)
async def test_what_no_status_could_hold_is_no_report(
    worker: Worker, reporter: ReportClient, changes: dict[str, Any]
) -> None:
    worker.says(json.dumps(report().to_json() | changes))
    assert await reporter.ask(pod()) is None
    assert worker.errors == {"NotAReport": 1}
