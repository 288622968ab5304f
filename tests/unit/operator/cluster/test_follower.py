"""How a mirror is kept up to date by an API server that ends watches, forgets versions and fails."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from neuronmodel_operator.cluster import client
from neuronmodel_operator.cluster.client import ApiError, Kind, Page
from neuronmodel_operator.cluster.follower import Event, Follower
from neuronmodel_operator.cluster.followers import Followers
from neuronmodel_operator.cluster.mirror import Mirror

Object = dict[str, Any]


def job(name: str, version: int, uid: str = "") -> Object:
    meta = {"namespace": "team", "name": name, "uid": uid or f"uid-{name}", "resourceVersion": str(version)}
    return {"metadata": meta | {"labels": {}}}


def event(kind: str, name: str, version: int) -> Event:
    return {"type": kind, "object": job(name, version)}


EXPIRED: Event = {"type": "ERROR", "object": {"code": 410, "reason": "Expired", "message": "too old"}}


@dataclass
class Server:
    """Answers each list with the next of `pages`, each watch with the next of `watches`, an error among them."""

    pages: list[Page | ApiError]
    watches: list[list[Event | ApiError]]
    asked: list[str] = field(default_factory=list)
    is_done: asyncio.Event = field(default_factory=asyncio.Event)

    async def list_page(self, kind: Kind, namespace: str | None, labels: str, limit: int, rest: str) -> Page:
        self.asked.append(f"list {rest}".strip())
        page = self.pages.pop(0)
        if isinstance(page, ApiError):
            raise page
        return page

    async def watch(
        self, kind: Kind, namespace: str | None, labels: str, version: str, seconds: int
    ) -> AsyncIterator[Event]:
        self.asked.append(f"watch from {version}")
        if not self.watches:
            self.is_done.set()
            await asyncio.Event().wait()
        for each in self.watches.pop(0):
            if isinstance(each, ApiError):
                raise each
            yield each


@dataclass
class Outcome:
    names: list[str]
    told: list[str]
    asked: list[str]
    pauses: list[float]
    num_lists: int


async def followed(pages: list[Page | ApiError], *watches: list[Event | ApiError]) -> Outcome:
    server, mirror = Server(pages, list(watches)), Mirror()
    told: list[str] = []
    pauses: list[float] = []

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)

    follower = Follower(
        server,
        client.JOB,
        "team",
        "",
        mirror,
        lambda o: told.append(o["metadata"]["name"]),
        lambda: 0.0,
        sleep,
        lambda: 1.0,
    )
    running = asyncio.create_task(follower.run())
    done = asyncio.create_task(server.is_done.wait())
    await asyncio.wait({running, done}, return_when=asyncio.FIRST_COMPLETED)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert follower.listed.is_set()
    names = sorted(o["metadata"]["name"] for o in mirror.of_owner(""))
    return Outcome(names, told, server.asked, pauses, follower.num_lists)


ONE = Page((job("one", 3),), "10")


async def test_a_list_is_read_page_by_page_and_watched_from_its_first() -> None:
    found = await followed([Page((job("one", 3),), "10", "next"), Page((job("two", 4),), "10")])
    assert found.names == found.told == ["one", "two"]
    assert found.asked == ["list", "list next", "watch from 10"]


async def test_events_are_kept_and_told_once() -> None:
    found = await followed(
        [ONE],
        [
            event("ADDED", "two", 11),
            event("MODIFIED", "one", 12),
            event("MODIFIED", "one", 12),
            event("DELETED", "two", 13),
        ],
    )
    assert found.names == ["one"]
    assert found.told == ["one", "two", "one", "two"]


async def test_a_watch_that_ends_goes_on_from_what_it_last_said_without_a_list() -> None:
    bookmark = {"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": "40"}}}
    found = await followed([ONE], [event("ADDED", "two", 11)], [], [bookmark])
    assert found.asked == ["list", "watch from 10", "watch from 11", "watch from 11", "watch from 40"]
    assert (found.num_lists, found.pauses) == (1, [])


@pytest.mark.parametrize("gone", [EXPIRED, ApiError(410, "Gone", "too old")])
async def test_after_a_version_that_is_forgotten_what_is_gone_is_found(gone: Event | ApiError) -> None:
    found = await followed([ONE, Page((job("three", 50),), "60")], [event("ADDED", "two", 11), gone])
    assert found.names == ["three"]
    assert found.told == ["one", "two", "three", "one", "two"]
    assert found.asked[-2:] == ["list", "watch from 60"]


async def test_failures_lead_to_longer_pauses_and_to_no_list() -> None:
    failed = ApiError(500, "InternalError", "no")
    found = await followed(
        [ONE], [event("ADDED", "two", 11), failed], [failed], [failed], [event("ADDED", "three", 12)]
    )
    assert found.pauses == [0.5, 1.0, 2.0]
    assert (found.num_lists, found.names) == (1, ["one", "three", "two"])


async def test_a_list_that_fails_amid_its_pages_is_begun_anew_and_takes_nothing_away() -> None:
    slow = ApiError(429, "TooManyRequests", "later", retry_after=7.0)
    half = Page((job("one", 3),), "10", "next")
    found = await followed([half, slow, half, Page((job("two", 4),), "10")])
    assert (found.names, found.pauses) == (["one", "two"], [7.0])
    assert found.asked == ["list", "list next", "list", "list next", "watch from 10"]


async def test_another_error_of_a_watch_is_tried_again() -> None:
    error = {"type": "ERROR", "object": {"code": 500, "reason": "InternalError", "message": "no"}}
    found = await followed([ONE], [error], [event("ADDED", "two", 11)])
    assert (found.pauses, found.names) == ([0.5], ["one", "two"])


async def test_the_age_of_a_kinds_watch_is_that_of_the_namespace_that_was_silent_longest() -> None:
    now = [100.0]
    followers = Followers(Server([], []), ("one", "two"), lambda kind, o: None, lambda: now[0])
    for each in followers._followers:
        each.seen_at = 100.0 if each.namespace == "one" else 70.0
    now[0] += 5
    assert set(followers.ages().values()) == {35.0}
    assert followers.ages().keys() == {kind.kind for kind in followers.mirrors}
