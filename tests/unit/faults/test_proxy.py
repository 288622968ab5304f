"""The fault proxy, in front of a small server that answers as an API server does."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml
from aiohttp import web
from yarl import URL

from tests.faults.faults import (
    Around,
    CutAfter,
    CutBefore,
    CutInside,
    Delay,
    Faults,
    Hang,
    Lag,
    RandomFaults,
    Refuse,
)
from tests.faults.proxy import FaultProxy, write_kubeconfig_of_proxy
from tests.faults.requests import ApiRequest, Match, WriteId, read_request
from tests.faults.watch_events import EventFaults, EventId
from tests.waiting import PATIENCE_SECONDS

JOBS = "/apis/batch/v1/namespaces/team/jobs"
ONLY_READS = frozenset({"get", "list"})


@dataclass
class Server:
    """Counts its Jobs, and plays the events that it is given."""

    num_written: int = 0
    num_read: int = 0
    events: list[dict[str, Any]] = field(default_factory=list)
    asked: list[tuple[str, str]] = field(default_factory=list)
    """Path with query, and token."""
    ends: asyncio.Event = field(default_factory=asyncio.Event)
    """A watch does, after its events, once this is set."""
    answers: asyncio.Event = field(default_factory=asyncio.Event)
    """Writes, once this is set."""

    def __post_init__(self) -> None:
        self.ends.set()
        self.answers.set()

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.asked.append((request.raw_path, request.headers.get("Authorization", "")))
        if request.query.get("watch"):
            stream = web.StreamResponse()
            await stream.prepare(request)
            for event in self.events:
                await stream.write(json.dumps(event).encode() + b"\n")
            await self.ends.wait()
            return stream
        if request.method == "GET":
            self.num_read += 1
            return web.json_response({"items": ["a"] * 1000, "read": self.num_read})
        self.num_written += 1
        await self.answers.wait()
        return web.json_response(await request.json(), status=201)


@pytest.fixture
async def server() -> AsyncIterator[tuple[Server, URL]]:
    served, application = Server(), web.Application()
    application.router.add_route("*", "/{path:.*}", served.answer)
    runner = web.AppRunner(application)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield served, URL(f"http://127.0.0.1:{runner.addresses[0][1]}")
    await runner.cleanup()


@pytest.fixture
async def proxy(server: tuple[Server, URL]) -> AsyncIterator[FaultProxy]:
    async with FaultProxy(server[1]).running() as running:
        yield running


@pytest.fixture
def served(server: tuple[Server, URL]) -> Server:
    return server[0]


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes


async def ask(proxy: FaultProxy, method: str = "GET", path: str = JOBS, seconds: float = 60, **given: Any) -> Answer:
    timeout, headers = aiohttp.ClientTimeout(total=seconds), {"Authorization": "Bearer secret"}
    connector = aiohttp.TCPConnector(force_close=True)
    async with (
        aiohttp.ClientSession(timeout=timeout, headers=headers, connector=connector) as session,
        session.request(method, URL(proxy.url + path, encoded=True), **given) as answer,
    ):
        return Answer(answer.status, dict(answer.headers), await answer.read())


@pytest.mark.parametrize(
    ("method", "path", "query", "says"),
    [
        ("GET", JOBS, {}, ApiRequest("list", "batch", "jobs", "team")),
        ("GET", JOBS, {"watch": "true"}, ApiRequest("watch", "batch", "jobs", "team")),
        ("GET", JOBS + "/one", {}, ApiRequest("get", "batch", "jobs", "team", "one")),
        ("POST", JOBS, {}, ApiRequest("create", "batch", "jobs", "team")),
        ("PATCH", JOBS + "/one/status", {}, ApiRequest("patch", "batch", "jobs", "team", "one", "status")),
        ("DELETE", JOBS, {}, ApiRequest("deletecollection", "batch", "jobs", "team")),
        ("DELETE", JOBS + "/one", {}, ApiRequest("delete", "batch", "jobs", "team", "one")),
        ("PUT", "/api/v1/namespaces/team", {}, ApiRequest("update", "", "namespaces", None, "team")),
        ("GET", "/api/v1/namespaces/team/pods", {}, ApiRequest("list", "", "pods", "team")),
        ("GET", "/api/v1/nodes", {}, ApiRequest("list", "", "nodes")),
        ("GET", "/version", {}, None),
        ("GET", "/apis/batch/v1", {}, None),
    ],
)
def test_requests_are_read_in_the_words_of_rbac(
    method: str, path: str, query: dict[str, str], says: ApiRequest | None
) -> None:
    assert read_request(method, path, query) == says


async def test_what_nothing_befalls_passes_with_its_token_and_is_recorded(proxy: FaultProxy, served: Server) -> None:
    path = f"{JOBS}/one/status?fieldManager=x&labelSelector=a%3Db%2Cc&force=true"
    answer = await ask(proxy, "PATCH", path, json={"a": 1})
    assert (answer.status, json.loads(answer.body)) == (201, {"a": 1})
    assert served.asked == [(path, "Bearer secret")]
    assert [(str(each.request), each.status, each.body) for each in proxy.writes] == [
        ("patch jobs/status one", 201, {"a": 1})
    ]


@pytest.mark.parametrize("status", [403, 409, 429, 500, 503])
async def test_a_refusal_is_the_proxy_s_own(proxy: FaultProxy, served: Server, status: int) -> None:
    rule = proxy.faults.add(Refuse(status, "Told", retry_after=7 if status == 429 else None), times=2)
    for _ in range(2):
        answer = await ask(proxy, "POST", json={})
        assert (answer.status, json.loads(answer.body)["reason"]) == (status, "Told")
        assert answer.headers.get("Retry-After") == ("7" if status == 429 else None)
    assert (served.num_written, rule.num_used) == (0, 2)
    assert (await ask(proxy, "POST", json={})).status == 201
    assert rule.num_used == 2


@pytest.mark.parametrize(("fault", "num_written"), [(CutBefore(), 0), (CutAfter(), 1), (CutInside(), 1)])
async def test_a_cut_before_an_answer_and_after_the_write(
    proxy: FaultProxy, served: Server, fault: CutBefore | CutAfter | CutInside, num_written: int
) -> None:
    proxy.faults.add(fault)
    with pytest.raises(aiohttp.ClientError):
        await ask(proxy, "POST", json={"a": "b" * 1000})
    assert served.num_written == num_written
    assert (await ask(proxy, "POST", json={})).status == 201


async def test_an_answer_that_does_not_come(proxy: FaultProxy, served: Server) -> None:
    proxy.faults.add(Hang())
    with pytest.raises(TimeoutError):
        await ask(proxy, seconds=0.2)
    assert served.num_read == 0
    assert (await ask(proxy)).status == 200


async def test_a_delay_is_only_that(proxy: FaultProxy) -> None:
    proxy.faults.add(Delay(0.01))
    assert (await ask(proxy)).status == 200


async def test_something_is_called_before_or_after_a_write(proxy: FaultProxy, served: Server) -> None:
    called = list[tuple[str, int]]()

    async def before(request: ApiRequest) -> None:
        called.append((f"before {request}", served.num_written))

    async def after(request: ApiRequest) -> None:
        called.append((f"after {request}", served.num_written))

    proxy.faults.add(Around(before=before))
    proxy.faults.add(Around(after=after))
    for _ in range(2):
        with pytest.raises(aiohttp.ClientError):
            await ask(proxy, "POST", json={})
    assert called == [("before create jobs", 0), ("after create jobs", 1)]


async def test_a_read_that_lags_is_answered_as_before(proxy: FaultProxy) -> None:
    for expected in (1, 2, 3):
        assert json.loads((await ask(proxy)).body)["read"] == expected
    proxy.faults.add(Lag(answers=2))
    assert json.loads((await ask(proxy)).body)["read"] == 1
    assert json.loads((await ask(proxy)).body)["read"] == 4
    proxy.faults.add(Lag())
    assert json.loads((await ask(proxy, path=JOBS + "/other")).body)["read"] == 5, "there was none before"


async def test_rules_befall_what_they_match_in_their_order(proxy: FaultProxy) -> None:
    of_jobs = Match(verbs=ONLY_READS, resource="jobs", namespace="team")
    proxy.faults.add(Refuse(500), of_jobs, skip=1)
    proxy.faults.add(Refuse(503), of_jobs, times=2)
    assert [(await ask(proxy)).status for _ in range(4)] == [503, 500, 503, 200]
    proxy.faults.add(Refuse(409), Match(name="one", subresource=""))
    assert (await ask(proxy, path=JOBS + "/one/status")).status == 200
    assert (await ask(proxy, path=JOBS + "/one")).status == 409
    proxy.faults.add(Refuse(409), times=100)
    proxy.faults.clear()
    assert (await ask(proxy)).status == 200


def test_random_faults_are_those_of_their_seed() -> None:
    requests = [ApiRequest("list", "batch", "jobs", "team", str(number)) for number in range(200)]

    def befallen(seed: int) -> list[int]:
        faults: Faults = RandomFaults(seed=seed, probability=0.2, choices=(Refuse(500), Refuse(503)))
        return [fault.status if isinstance(fault := faults.of(each), Refuse) else 0 for each in requests]

    assert befallen(1) == befallen(1) != befallen(2)
    assert 10 < sum(map(bool, befallen(1))) < 80
    assert {500, 503} < set(befallen(1))


# Watches.


def event(name: str, version: int, kind: str = "MODIFIED", labels: Mapping[str, str] | None = None) -> dict[str, Any]:
    meta = {"name": name, "resourceVersion": str(version), "labels": labels or {}}
    return {"type": kind, "object": {"metadata": meta}}


STORY = [event("one", 1, "ADDED"), event("two", 2, "ADDED"), *(event("one", version) for version in range(3, 8))]


async def watched(proxy: FaultProxy) -> list[str]:
    """Names and versions of what came, and errors."""
    answer = await ask(proxy, path=f"{JOBS}?watch=1")
    events = [json.loads(line) for line in answer.body.splitlines()]
    return [
        f"{each['object']['metadata']['name']}{each['object']['metadata']['resourceVersion']}"
        if "metadata" in each["object"]
        else str(each["object"]["code"])
        for each in events
    ]


@pytest.mark.parametrize(
    ("faults", "comes"),
    [
        (EventFaults(), "one1 two2 one3 one4 one5 one6 one7"),
        (EventFaults(dropped=frozenset({EventId("jobs", "one", 2)})), "one1 two2 one4 one5 one6 one7"),
        (EventFaults(late=frozenset({EventId("jobs", "two", 1)})), "one1 one3 one4 one5 two2 one6 one7"),
        (EventFaults(late=frozenset({EventId("jobs", "one", 5)})), "one1 two2 one3 one4 one5 one7"),
        (EventFaults(repeated=frozenset({EventId("jobs", "two", 1)})), "one1 two2 two2 one3 one4 one5 one6 one7"),
        (EventFaults(closing=frozenset({EventId("jobs", "one", 2)})), "one1 two2 one3"),
        (EventFaults(expiring=frozenset({EventId("jobs", "two", 1)})), "one1 two2 410"),
    ],
)
async def test_events_of_a_watch(proxy: FaultProxy, served: Server, faults: EventFaults, comes: str) -> None:
    served.events, proxy.event_faults = STORY, faults
    assert await watched(proxy) == comes.split()
    assert faults.num_befallen == (comes != "one1 two2 one3 one4 one5 one6 one7")


async def test_an_event_is_the_same_in_another_watch(proxy: FaultProxy, served: Server) -> None:
    served.events = STORY[:3]
    await asyncio.gather(watched(proxy), watched(proxy))
    assert list(map(str, proxy.events.ids)) == ["jobs one #1", "jobs two #1", "jobs one #2"]
    proxy.event_faults = EventFaults(dropped=frozenset({EventId("jobs", "one", 2)}))
    assert await watched(proxy) == ["one1", "two2"]


async def test_bookmarks_pass(proxy: FaultProxy, served: Server) -> None:
    served.events = [event("", 9, "BOOKMARK")]
    proxy.event_faults = EventFaults(dropped=frozenset({EventId("jobs", "", 1)}))
    assert await watched(proxy) == ["9"]


async def test_an_event_may_be_longer_than_any_buffer(proxy: FaultProxy, served: Server) -> None:
    long = event("one", 1)
    long["object"]["padding"] = "x" * (5 << 20)
    served.events = [long, event("one", 2)]
    assert await watched(proxy) == ["one1", "one2"]


def test_a_kubeconfig_leads_to_the_proxy(tmp_path: Path) -> None:
    given, made = tmp_path / "given", tmp_path / "made"
    context = {"cluster": "c", "user": "u"}
    given.write_text(
        yaml.safe_dump(
            {
                "current-context": "x",
                "contexts": [{"name": "x", "context": context}],
                "clusters": [{"name": "c", "cluster": {"server": "https://api", "certificate-authority": "/ca"}}],
                "users": [{"name": "u", "user": {"token": "secret"}}],
            }
        )
    )
    write_kubeconfig_of_proxy(given, FaultProxy(URL("https://api"), url="http://127.0.0.1:1"), made)
    content = yaml.safe_load(made.read_text())
    assert content["clusters"] == [{"name": "c", "cluster": {"server": "http://127.0.0.1:1"}}]
    assert content["users"] == [{"name": "u", "user": {"token": "secret"}}]


async def test_a_write_is_known_by_its_number_among_those_of_its_kind(proxy: FaultProxy, served: Server) -> None:
    proxy.write_faults = {WriteId("create jobs prepare", 2): Refuse(500)}
    labels = {"metadata": {"labels": {"example.com/component": "prepare"}}}
    assert [(await ask(proxy, "POST", json=labels)).status for _ in range(3)] == [201, 500, 201]
    events = "/api/v1/namespaces/team/events"
    await ask(proxy, "POST", events, json={"reason": "Ready"})
    await ask(proxy, "PATCH", f"{JOBS}/one/status", json={})
    assert [str(each) for each in proxy.numbered.ids] == [
        *(f"create jobs prepare #{number}" for number in (1, 2, 3)),
        *("create events Ready #1", "patch jobs/status #1"),
    ]
    assert (served.num_written, proxy.num_befallen) == (4, 1)
    proxy.begin()
    assert [(await ask(proxy, "POST", json=labels)).status for _ in range(2)] == [201, 500], "counted from 1 again"
    assert len(proxy.writes) == 1


async def test_an_api_server_that_is_behind_answers_each_read_as_the_last_one_before(
    proxy: FaultProxy, served: Server
) -> None:
    other = JOBS.replace("jobs", "cronjobs")
    before = [(await ask(proxy, path=path)).body for path in (JOBS, other)]
    proxy.serve_stale(2)
    for path, expected in zip((JOBS, other), before, strict=True):
        assert [(await ask(proxy, path=path)).body for _ in range(2)] == [expected, expected]
        assert (await ask(proxy, path=path)).body != expected
    assert (served.num_read, proxy.num_befallen) == (4, 4)
    assert (await ask(proxy, path=f"{JOBS}/never-read")).status == 200


async def test_what_is_held_back_comes_when_nothing_else_does(proxy: FaultProxy, served: Server) -> None:
    served.events = [event("one", 1), event("two", 2)]
    proxy.event_faults.late, proxy.event_faults.held_seconds = frozenset({EventId("jobs", "one", 1)}), 0.01
    served.ends.clear()
    async with aiohttp.ClientSession() as session, session.get(f"{proxy.url}{JOBS}?watch=true") as answer:
        lines = [await answer.content.readline() for _ in range(2)]
        served.ends.set()
    assert [json.loads(line)["object"]["metadata"]["name"] for line in lines] == ["two", "one"]


async def test_what_has_a_made_up_name_is_known_by_its_component(proxy: FaultProxy, served: Server) -> None:
    labels = {"example.com/component": "prepare"}
    served.events = [
        event(name, version, labels=labels) for version, name in enumerate(("x-7fk2", "x-9sd1", "x-7fk2"), 1)
    ]
    await ask(proxy, path=f"{JOBS}?watch=true")
    assert [str(each) for each in proxy.events.ids] == ["jobs prepare 1 #1", "jobs prepare 2 #1", "jobs prepare 1 #2"]


async def test_what_is_called_around_a_write_is_seen_through_though_the_client_gives_up(proxy: FaultProxy) -> None:
    goes_on, is_done = asyncio.Event(), asyncio.Event()

    async def call(request: ApiRequest) -> None:
        await goes_on.wait()
        is_done.set()

    proxy.faults.add(Around(after=call))
    with pytest.raises(TimeoutError):
        await ask(proxy, "POST", seconds=0.2, json={})
    goes_on.set()
    async with asyncio.timeout(PATIENCE_SECONDS):
        await is_done.wait()


async def test_a_client_that_gives_up_before_the_answer_does_not_keep_what_follows_the_write_from_being_called(
    proxy: FaultProxy, served: Server
) -> None:
    is_done = asyncio.Event()

    async def call(request: ApiRequest) -> None:
        is_done.set()

    served.answers.clear()
    proxy.faults.add(Around(after=call))
    with pytest.raises(TimeoutError):
        await ask(proxy, "POST", seconds=0.2, json={})
    assert not is_done.is_set()
    served.answers.set()
    async with asyncio.timeout(PATIENCE_SECONDS):
        await is_done.wait()
