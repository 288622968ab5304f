"""What becomes of a plan while the API server does not answer."""

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from time import monotonic
from typing import Any, cast

import pytest

from neuronmodel_api import names
from neuronmodel_api.conditions import ConditionType
from neuronmodel_api.status import Condition, NeuronModelStatus
from neuronmodel_operator.cluster import apply, client, event_writer
from neuronmodel_operator.cluster.apply import MAX_CONFLICTS, Applier, StatusError
from neuronmodel_operator.cluster.client import Api, ApiError, Kind
from neuronmodel_operator.cluster.observe import ModelKey, Snapshot, parse_model
from neuronmodel_operator.state.observed import Observed
from neuronmodel_operator.state.plan import EventNote, ObjectRef, Plan
from tests.builders import neuron_model

NOW = datetime(2026, 1, 1, tzinfo=UTC)
KEY = ModelKey("demo", "smol", "uid-model")
WARNING = EventNote("Warning", "ImagePullFailed", "There is no such image.")
SERVICE = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": KEY.name}}
OUTDATED = ApiError(409, "Conflict", "the object has been modified")
Object = dict[str, Any]


class Server:
    """An API server that answers to the writes of some kinds."""

    def __init__(self, *silent: str) -> None:
        self.silent = silent
        self.answers = asyncio.Event()
        self.has_event = asyncio.Event()
        self.events: list[str] = []
        self.written: list[Object] = []
        self.refuses: list[ApiError] = []
        """To the next writes of a status."""
        self.keeps: ApiError | None = None
        """To deletions."""
        self.finalizers: list[list[str]] = []
        self.applied: list[str] = []
        """Kinds."""
        self.confirms: list[ApiError | None] = []
        """What is answered to patches that change nothing, in turn; None, and after them: that it is the latest."""
        self.num_confirmed = 0
        self.there: Object | None = None
        """The object of every name."""

    async def create(self, kind: Kind, namespace: str | None, manifest: Mapping[str, Any]) -> Object:
        await self._answer(kind)
        if self.there:
            raise ApiError(409, "AlreadyExists", "it exists")
        self.events.append(f"{manifest['reason']}: {manifest['message']}")
        self.has_event.set()
        return dict(manifest)

    async def get_live(self, kind: Kind, namespace: str | None, name: str) -> Object | None:
        return self.there

    async def delete(self, kind: Kind, namespace: str | None, ref: ObjectRef) -> None:
        await self._answer(kind)
        if self.keeps:
            raise self.keeps

    async def apply(self, kind: Kind, namespace: str, manifest: Mapping[str, Any]) -> Object:
        self.applied.append(kind.kind)
        return {"metadata": {"uid": "uid-service", "resourceVersion": "1"}}

    async def merge(
        self, kind: Kind, namespace: str, name: str, patch: Mapping[str, Any], subresource: str | None = None
    ) -> Object:
        await self._answer(kind)
        if "finalizers" in patch.get("metadata", {}):
            self.finalizers.append(patch["metadata"]["finalizers"])
            return model()
        if "status" not in patch:
            self.num_confirmed += 1
            if self.confirms and (error := self.confirms.pop(0)):
                raise error
            return model()
        if self.refuses:
            raise self.refuses.pop()
        self.written.append(dict(patch["status"]))
        return model() | {"status": dict(patch["status"])}

    async def _answer(self, kind: Kind) -> None:
        if kind.kind in self.silent:
            await self.answers.wait()


def model() -> Object:
    meta = {"namespace": KEY.namespace, "uid": KEY.uid, "generation": 1, "resourceVersion": "1"}
    made = neuron_model(KEY.name).on_cpu().build()
    return made | {"metadata": meta | made["metadata"] | {"creationTimestamp": "2026-01-01T00:00:00Z"}}


def snapshot() -> Snapshot:
    nothing = Observed(model=parse_model(model()))
    return Snapshot(observed=nothing, raw=model())


def status() -> NeuronModelStatus:
    ready = Condition(type=ConditionType.READY, status="Unknown", reason="Preparing", last_transition_time=NOW)
    return NeuronModelStatus(observed_generation=1, conditions=(ready,))


@pytest.fixture(autouse=True)
def little_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_writer, "PASS_SECONDS", 0.05)
    monkeypatch.setattr(event_writer, "LEAST_EVENT_SECONDS", 0.01)
    monkeypatch.setattr(apply, "STATUS_NOTICE_SECONDS", 0.05)


def applier(server: Server) -> Applier:
    return Applier(cast(Api, server), KEY, now=lambda: NOW, monotonic=monotonic)


async def test_events_that_are_not_answered_keep_no_pass_waiting(caplog: pytest.LogCaptureFixture) -> None:
    server = Server(client.EVENT.kind)
    plan = Plan(status=status(), events=(WARNING, WARNING, WARNING))
    await applier(server).carry_out(plan, snapshot(), hold_status=False)
    assert len(server.written) == 1
    assert server.events == []
    assert [record.message for record in caplog.records if "ImagePullFailed was not written" in record.message]


async def test_a_slow_status_write_is_reported_by_an_event_and_written_all_the_same() -> None:
    server = Server(names.KIND)
    plan = Plan(status=status(), events=(WARNING,))
    carrying = asyncio.create_task(applier(server).carry_out(plan, snapshot(), hold_status=False))
    await server.has_event.wait()
    assert [event.partition(":")[0] for event in server.events] == ["StatusNotWritten"]
    assert "has not answered yet" in server.events[0]
    assert server.written == []
    server.answers.set()
    outcome = await carrying
    assert outcome.snapshot.observed.model.status == status()
    assert len(server.events) == 2


async def test_what_tells_of_an_object_outlives_a_status_that_was_outdated() -> None:
    server = Server()
    server.refuses = [OUTDATED]
    made = EventNote("Normal", "ServiceMade", "Made the Service.", ("Service", KEY.name))
    tested = applier(server)
    with pytest.raises(StatusError):
        await tested.carry_out(Plan(apply=(SERVICE,), status=status(), events=(made,)), snapshot(), hold_status=False)
    assert server.events == []
    await tested.carry_out(Plan(status=status()), snapshot(), hold_status=False)
    assert server.events == ["ServiceMade: Made the Service."]
    await tested.carry_out(Plan(status=status()), snapshot(), hold_status=False)
    assert len(server.events) == 1


async def test_a_process_that_begins_with_an_outdated_neuronmodel_writes_nothing_for_it() -> None:
    server = Server()
    server.confirms = [OUTDATED, OUTDATED]
    tested = applier(server)
    for _ in range(2):
        with pytest.raises(StatusError):
            await tested.carry_out(Plan(apply=(SERVICE,), status=status()), snapshot(), hold_status=False)
    assert (server.applied, server.written) == ([], [])
    for _ in range(2):
        await tested.carry_out(Plan(apply=(SERVICE,), status=status()), snapshot(), hold_status=False)
    assert server.applied == ["Service", "Service"]
    assert server.num_confirmed == 3, "once it was the latest it is asked for no more"


async def test_somebody_who_writes_all_the_time_does_not_keep_an_operator_from_acting() -> None:
    server = Server()
    server.confirms = [OUTDATED] * 1000
    tested = applier(server)
    for _ in range(MAX_CONFLICTS):
        with pytest.raises(StatusError):
            await tested.carry_out(Plan(apply=(SERVICE,)), snapshot(), hold_status=False)
    await tested.carry_out(Plan(apply=(SERVICE,)), snapshot(), hold_status=False)
    assert server.applied == ["Service"]


async def test_nothing_is_asked_for_where_nothing_is_to_be_written() -> None:
    server = Server()
    await applier(server).carry_out(Plan(status=status()), snapshot(), hold_status=False)
    assert server.num_confirmed == 0


@pytest.mark.parametrize(("seconds", "is_asked"), [(-3600, False), (-1, True), (3600, True)])
async def test_on_what_was_created_later_than_it_began_to_act_nobody_else_has_acted(
    seconds: int, is_asked: bool
) -> None:
    """A second apart is less than clocks may be."""
    server = Server()
    tested = Applier(
        cast(Api, server),
        KEY,
        now=lambda: NOW,
        monotonic=monotonic,
        acting_since=lambda: NOW + timedelta(seconds=seconds),
    )
    await tested.carry_out(Plan(apply=(SERVICE,)), snapshot(), hold_status=False)
    assert server.applied == ["Service"]
    assert server.num_confirmed == is_asked


@pytest.mark.parametrize("refusal", [ApiError(403, "Forbidden", "not on a Friday"), ApiError(500, "InternalError", "")])
async def test_an_answer_that_says_nothing_of_the_version_keeps_nothing_from_being_written(refusal: ApiError) -> None:
    server = Server()
    server.confirms = [refusal]
    tested = applier(server)
    for _ in range(2):
        await tested.carry_out(Plan(apply=(SERVICE,), status=status()), snapshot(), hold_status=False)
    assert (server.applied, server.num_confirmed) == (["Service", "Service"], 2)


async def test_no_answer_about_the_version_is_not_waited_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apply, "CONFIRM_SECONDS", 0.01)
    server = Server(names.KIND)
    await applier(server).carry_out(Plan(apply=(SERVICE,)), snapshot(), hold_status=False)
    assert server.applied == ["Service"]


async def test_a_deletion_is_reported_when_it_was_done() -> None:
    server = Server()
    server.keeps = ApiError(403, "Forbidden", "it is to be kept")
    seconds = 0.0
    tested = Applier(cast(Api, server), KEY, now=lambda: NOW, monotonic=lambda: seconds)
    claim = ObjectRef("v1", "PersistentVolumeClaim", "smol-artifacts", "uid-claim")
    gone = EventNote("Normal", "ClaimDeleted", "Deleted the claim.", (claim.kind, claim.name))
    plan = Plan(delete=(claim,), events=(gone,))
    await tested.carry_out(plan, snapshot(), hold_status=False)
    assert server.events == []
    server.keeps, seconds = None, 60.0
    await tested.carry_out(plan, snapshot(), hold_status=False)
    assert server.events == ["ClaimDeleted: Deleted the claim."]


async def test_the_finalizer_stays_until_what_goes_with_it_is_deleted() -> None:
    """The clean-up Job has no owner: once the NeuronModel is gone, nobody removes it."""
    server = Server()
    server.keeps = ApiError(403, "Forbidden", "not on a Friday")
    seconds = 0.0
    tested = Applier(cast(Api, server), KEY, now=lambda: NOW, monotonic=lambda: seconds)
    looked = snapshot()
    held = replace(looked.observed.model, finalizers=(names.FINALIZER,))
    looked = replace(looked, observed=replace(looked.observed, model=held))
    plan = Plan(finalizer=False, delete=(ObjectRef("batch/v1", "Job", "smol-cleanup", "uid-job"),))
    for hold_status in (True, False):
        await tested.carry_out(plan, looked, hold_status=hold_status)
    assert server.finalizers == []
    server.keeps, seconds = None, 60.0
    await tested.carry_out(plan, looked, hold_status=False)
    assert server.finalizers == [[]]


@pytest.mark.parametrize("seen", [True, False])
async def test_a_job_that_is_there_although_the_look_did_not_find_it_makes_another_look_due(seen: bool) -> None:
    owner = {"kind": names.KIND, "name": KEY.name, "uid": KEY.uid}
    job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "smol-prepare-1", "ownerReferences": [owner]}}
    server = Server()
    server.there = job
    looked = snapshot()
    if seen:
        looked = replace(looked, observed=replace(looked.observed, jobs=(job,)))
    tested = applier(server)
    outcome = await tested.carry_out(Plan(create=(job,)), looked, hold_status=False)
    assert outcome.written is not seen
    assert tested.refusals == ()


async def test_it_is_done_when_nothing_is_refused_and_no_event_waits() -> None:
    server = Server(client.EVENT.kind)
    tested = applier(server)

    def is_done() -> bool:
        return tested.is_done

    await tested.carry_out(Plan(status=status()), snapshot(), hold_status=False)
    assert is_done()
    await tested.carry_out(Plan(events=(WARNING,)), snapshot(), hold_status=False)
    assert not is_done(), "an Event was not taken"
    server.answers.set()
    await tested.carry_out(Plan(), snapshot(), hold_status=False)
    assert is_done()
    server.keeps = ApiError(403, "Forbidden", "no")
    ref = ObjectRef("v1", "Service", KEY.name, "uid-service")
    await tested.carry_out(Plan(delete=(ref,)), snapshot(), hold_status=False)
    assert not is_done(), "a deletion was refused"
