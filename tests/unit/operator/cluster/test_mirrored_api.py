"""What is read from mirrors, what live, and what a live read makes of the mirrors."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest

from neuronmodel_api import names
from neuronmodel_operator.cluster import client
from neuronmodel_operator.cluster.client import ApiError, Kind, Object
from neuronmodel_operator.cluster.mirror import Mirror
from neuronmodel_operator.cluster.mirrored_api import MIRRORED, MirroredApi

UID = "uid-model"
OF_OWNER = f"{names.LABEL_UID}={UID}"


def job(name: str, version: int, uid: str = "") -> Object:
    meta = {"namespace": "team", "name": name, "uid": uid or f"uid-{name}", "resourceVersion": str(version)}
    return {"kind": "Job", "metadata": meta | {"labels": {names.LABEL_UID: UID}}}


@dataclass
class Server:
    jobs: list[Object] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    error: ApiError | None = None
    meanwhile: Mirror | None = None
    """Gets an event while a read is under way: an object that is made after it began."""

    async def get(self, kind: Kind, namespace: str | None, name: str) -> Object | None:
        self.asked.append(f"get {kind.kind} {name}")
        if self.error:
            raise self.error
        return next((each for each in self.jobs if each["metadata"]["name"] == name), None)

    async def list(
        self, kind: Kind, namespace: str | None, *, labels: str | None = None, fields: str | None = None
    ) -> tuple[Object, ...]:
        self.asked.append(f"list {kind.kind}")
        if self.error:
            raise self.error
        found = tuple(self.jobs)
        if self.meanwhile is not None:
            self.meanwhile.put(job("late", 9))
        return found

    async def create(self, kind: Kind, namespace: str | None, manifest: Mapping[str, Any]) -> Object:
        return job(manifest["metadata"]["name"], 5)


@dataclass
class Read:
    server: Server = field(default_factory=Server)
    mirror: Mirror = field(default_factory=Mirror)
    is_current: bool = True

    @property
    def api(self) -> MirroredApi:
        mirrors = {kind: Mirror() for kind in MIRRORED} | {client.JOB: self.mirror}
        return MirroredApi(self.server, mirrors, lambda kind, namespace: self.is_current)  # type: ignore[arg-type]

    async def jobs(self, *, live: bool = False) -> list[tuple[str, str]]:
        api = self.api.live if live else self.api
        found = await api.list(client.JOB, "team", labels=OF_OWNER)
        return [(each["metadata"]["name"], each["metadata"]["resourceVersion"]) for each in found]


async def test_children_are_read_without_a_request() -> None:
    read = Read()
    read.mirror.put(job("a", 1))
    assert await read.jobs() == [("a", "1")]
    assert await read.api.get(client.JOB, "team", "a") == job("a", 1)
    assert await read.api.get(client.JOB, "team", "b") is None
    assert read.server.asked == []


async def test_the_neuronmodel_events_and_what_is_of_others_are_read_live() -> None:
    read = Read()
    await read.api.get(client.MODEL, "team", "smol")
    await read.api.list(client.EVENT, "team", fields="involvedObject.uid=1")
    await read.api.list(client.JOB, "team", labels=names.LABEL_COMPONENT)
    assert read.server.asked == ["get NeuronModel smol", "list Event", "list Job"]


async def test_what_was_written_is_there_at_once() -> None:
    read = Read()
    await read.api.create(client.JOB, "team", {"metadata": {"name": "a"}})
    assert await read.jobs() == [("a", "5")]


async def test_a_mirror_that_is_not_current_is_not_believed() -> None:
    read = Read(is_current=False)
    read.mirror.put(job("a", 1))
    read.server.jobs = [job("a", 2)]
    assert await read.jobs() == [("a", "2")]
    read.server.error = ApiError(403, "Forbidden", "you may not")
    with pytest.raises(ApiError, match="you may not"):
        await read.jobs()


async def test_a_live_read_finds_what_the_watch_missed_and_the_mirror_keeps_it() -> None:
    read = Read()
    for name, version in (("changed", 1), ("gone", 2), ("same", 3)):
        read.mirror.put(job(name, version))
    read.server.jobs = [job("changed", 7), job("made", 8), job("same", 3)]
    expected = [("changed", "7"), ("made", "8"), ("same", "3")]
    assert await read.jobs(live=True) == expected
    assert await read.jobs() == expected
    read.server.jobs = []
    assert await read.api.get_live(client.JOB, "team", "same") is None
    assert ("same", "3") not in await read.jobs()


async def test_what_was_made_while_it_read_is_not_taken_for_gone() -> None:
    read = Read()
    read.server.meanwhile = read.mirror
    assert await read.jobs(live=True) == []
    assert await read.jobs() == [("late", "9")]


async def test_what_is_read_live_is_put_into_a_mirror_that_is_still_empty() -> None:
    read = Read()
    read.server.jobs = [job("a", 4)]
    await read.api.get_live(client.JOB, "team", "a")
    assert await read.jobs() == [("a", "4")]


async def test_an_older_answer_changes_nothing() -> None:
    read = Read()
    read.mirror.put(job("a", 5))
    read.server.jobs = [job("a", 4)]
    await read.jobs(live=True)
    assert await read.jobs() == [("a", "5")]
