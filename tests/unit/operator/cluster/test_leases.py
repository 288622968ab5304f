"""Who may act in a namespace: two operators, one Lease, clocks that tests move and an API server that can fail."""

import asyncio
import copy
import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest

from neuronmodel_operator.cluster import lease_record
from neuronmodel_operator.cluster.client import ApiError, Kind
from neuronmodel_operator.cluster.lease_record import DURATION_SECONDS, RELEASE, Holder
from neuronmodel_operator.cluster.leases import GONE_SECONDS, LOOK_SECONDS, RENEW_SECONDS, Leases
from tests.unit.operator.hand_clock import HandClock

A = Holder("system/old-7c", "system/neuronmodel")
SIBLING = Holder("system/new-5d", "system/neuronmodel")
STRANGER = Holder("team/other-9f", "team/neuronmodel")
FORBIDDEN = ApiError(403, "Forbidden", 'leases "neuronmodel-operator" is forbidden')
NO_ANSWER = ApiError(0, "NoAnswer", "the API server did not answer")


class ApiServer:
    """Its Leases, by namespace."""

    def __init__(self) -> None:
        self.leases: dict[str, dict[str, Any]] = {}
        self.errors: dict[str, ApiError] = {}
        """By verb."""
        self.gone: set[str] = set()
        """Namespaces."""
        self.calls: list[str] = []
        self._version = 0

    async def get(self, kind: Kind, namespace: str | None, name: str) -> dict[str, Any] | None:
        self._answer("get", kind, name)
        return copy.deepcopy(self.leases.get(namespace or ""))

    async def create(self, kind: Kind, namespace: str | None, manifest: Mapping[str, Any]) -> dict[str, Any]:
        self._answer("create", kind, manifest["metadata"]["name"])
        assert namespace
        if namespace in self.gone:
            raise ApiError(404, "NotFound", f'namespaces "{namespace}" not found')
        if namespace in self.leases:
            raise ApiError(409, "AlreadyExists", "it is there already")
        return self._store(namespace, manifest)

    async def replace(self, kind: Kind, namespace: str, manifest: Mapping[str, Any]) -> dict[str, Any]:
        self._answer("replace", kind, manifest["metadata"]["name"])
        if (found := self.leases.get(namespace)) is None:
            raise ApiError(404, "NotFound", "there is no such Lease")
        if found["metadata"]["resourceVersion"] != manifest["metadata"]["resourceVersion"]:
            raise ApiError(409, "Conflict", "the object has been modified")
        return self._store(namespace, manifest)

    def holder(self, namespace: str) -> Holder | None:
        return lease_record.holder(self.leases.get(namespace))

    def give(self, namespace: str, other: Holder, clock: HandClock) -> None:
        """As if somebody had overwritten it."""
        self._store(namespace, lease_record.taken(self.leases.get(namespace), other, clock.now()))

    def _answer(self, verb: str, kind: Kind, name: str) -> None:
        self.calls.append(verb)
        assert (kind.plural, name) == ("leases", "neuronmodel-operator")
        if verb in self.errors:
            raise self.errors[verb]

    def _store(self, namespace: str, manifest: Mapping[str, Any]) -> dict[str, Any]:
        self._version += 1
        stored = copy.deepcopy(dict(manifest))
        stored["metadata"] = stored["metadata"] | {"namespace": namespace, "resourceVersion": str(self._version)}
        self.leases[namespace] = stored
        return copy.deepcopy(stored)


class Operator:
    def __init__(self, api: ApiServer, me: Holder, clock: HandClock) -> None:
        self.leases = Leases(api, me, clock)
        self._clock = clock

    async def follow(self, namespace: str = "a") -> bool:
        """Whether it may act there by now."""
        waiting = asyncio.create_task(self.leases.wait_until_held(namespace))
        await self._clock.advance(0)
        try:
            return waiting.done()
        finally:
            waiting.cancel()

    def may_act(self) -> bool:
        return self.leases.is_held("a")

    @property
    def is_ready(self) -> bool:
        return not self.leases.complaints()


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def api() -> ApiServer:
    return ApiServer()


@asynccontextmanager
async def running(api: ApiServer, me: Holder, clock: HandClock) -> AsyncIterator[Operator]:
    """Until it is killed."""
    before = asyncio.all_tasks()
    try:
        yield Operator(api, me, clock)
    finally:
        for task in asyncio.all_tasks() - before - {asyncio.current_task()}:
            task.cancel()
        await asyncio.sleep(0)


async def test_alone_it_holds_the_lease_at_once_and_renews_it(api: ApiServer, clock: HandClock) -> None:
    async with running(api, A, clock) as operator:
        assert not operator.may_act(), "it does not follow that namespace yet"
        assert await operator.follow()
        assert api.holder("a") == A
        assert api.leases["a"]["metadata"]["annotations"] == {RELEASE: A.release}
        first = api.leases["a"]["spec"]
        await clock.advance(10 * DURATION_SECONDS)
        assert operator.may_act()
        last = api.leases["a"]["spec"]
        assert last["renewTime"] > first["renewTime"]
        assert last["acquireTime"] == first["acquireTime"]
        assert operator.leases.complaints() == operator.leases.remarks() == []


async def test_a_renewal_is_one_call(api: ApiServer, clock: HandClock) -> None:
    async with running(api, A, clock) as operator:
        await operator.follow()
        api.calls.clear()
        await clock.advance(3 * RENEW_SECONDS)
        assert api.calls == ["replace"] * 3


async def test_since_when_it_acts_is_told_from_when_it_took_over(api: ApiServer, clock: HandClock) -> None:
    async with running(api, A, clock) as first, running(api, SIBLING, clock) as second:
        await first.follow()
        began = clock.now()
        await clock.advance(100)
        assert first.leases.acting_since("a") == began
        await second.follow()
        assert second.leases.acting_since("a") is None
        await first.leases.release()
        await clock.advance(10)
        taken = second.leases.acting_since("a")
        assert taken is not None
        assert (taken - began).total_seconds() >= 100
        await clock.advance(100)
        assert second.leases.acting_since("a") == taken


async def test_each_namespace_has_its_own(api: ApiServer, clock: HandClock) -> None:
    async with running(api, A, clock) as one, running(api, STRANGER, clock) as other:
        assert await one.follow("a")
        assert await other.follow("b")
        assert not await other.follow("a")
        assert await other.follow("b")


@pytest.mark.parametrize("second", [SIBLING, STRANGER])
async def test_a_second_operator_does_nothing_while_the_first_lives(
    api: ApiServer, clock: HandClock, second: Holder
) -> None:
    async with running(api, A, clock) as one, running(api, second, clock) as other:
        await one.follow()
        assert not await other.follow()
        await clock.advance(10 * DURATION_SECONDS)
        assert one.may_act()
        assert not other.may_act()


async def test_it_says_whose_namespace_it_is_and_what_to_do(api: ApiServer, clock: HandClock) -> None:
    async with running(api, A, clock) as one, running(api, STRANGER, clock) as other:
        await one.follow()
        await other.follow()
        (complaint,) = other.leases.complaints()
        assert "Namespace a is operated by system/old-7c of release system/neuronmodel" in complaint
        assert "a/neuronmodel-operator" in complaint
        assert "watchNamespaces" in complaint


async def test_many_namespaces_of_another_are_one_sentence(api: ApiServer, clock: HandClock) -> None:
    namespaces = [f"n{number}" for number in range(8)]
    async with running(api, A, clock) as one, running(api, STRANGER, clock) as other:
        for namespace in namespaces:
            await one.follow(namespace)
            await other.follow(namespace)
        (complaint,) = other.leases.complaints()
        assert complaint.startswith("Namespaces n0, n1, n2, n3, n4 and 3 more are operated by")


@pytest.mark.parametrize(("second", "is_ready"), [(SIBLING, True), (STRANGER, False), (Holder("team/x", ""), False)])
async def test_who_stands_by_in_a_rollout_is_ready(
    api: ApiServer, clock: HandClock, second: Holder, is_ready: bool
) -> None:
    async with running(api, A, clock) as one, running(api, second, clock) as other:
        await one.follow()
        await other.follow()
        assert other.is_ready == is_ready
        assert bool(other.leases.remarks()) == is_ready


async def test_two_of_unknown_release_are_not_of_one_release(api: ApiServer, clock: HandClock) -> None:
    async with running(api, Holder("host/1", ""), clock) as one, running(api, Holder("host/2", ""), clock) as other:
        await one.follow()
        await other.follow()
        assert not other.is_ready


async def test_at_a_clean_end_the_next_one_takes_over_at_its_next_look(api: ApiServer, clock: HandClock) -> None:
    async with running(api, A, clock) as one, running(api, SIBLING, clock) as other:
        await one.follow()
        await other.follow()
        await one.leases.release()
        assert api.leases["a"]["spec"]["holderIdentity"] == ""
        assert not one.may_act()
        await clock.advance(LOOK_SECONDS)
        assert other.may_act()
        assert other.leases.remarks() == []
        assert api.leases["a"]["spec"]["leaseTransitions"] == 1


async def test_whoever_cancels_every_task_of_the_loop_does_not_keep_a_lease_from_its_release(
    api: ApiServer, clock: HandClock
) -> None:
    """As kopf does at its end."""
    async with running(api, A, clock) as one:
        before = asyncio.all_tasks()
        await one.follow()
        for task in asyncio.all_tasks() - before:
            task.cancel()
        await clock.advance(0)
        await one.leases.release()
        assert api.holder("a") is None


async def test_what_another_holds_is_not_released(api: ApiServer, clock: HandClock) -> None:
    async with running(api, A, clock) as one, running(api, SIBLING, clock) as other:
        await one.follow()
        await other.follow()
        await other.leases.release()
        assert api.holder("a") == A


async def test_a_lease_that_changed_since_is_released_all_the_same(api: ApiServer, clock: HandClock) -> None:
    async with running(api, A, clock) as one:
        await one.follow()
        api.give("a", A, clock)  # as by a renewal whose answer did not arrive before the end
        await one.leases.release()
        assert api.holder("a") is None


async def test_after_a_kill_the_next_one_takes_over_when_the_duration_is_over(api: ApiServer, clock: HandClock) -> None:
    async with running(api, A, clock) as one:
        await one.follow()
    async with running(api, STRANGER, clock) as other:
        assert not await other.follow()
        await clock.advance(DURATION_SECONDS - 1)
        assert not other.may_act()
        await clock.advance(1 + LOOK_SECONDS)
        assert other.may_act()
        assert api.holder("a") == STRANGER


async def test_a_container_restarted_in_its_pod_goes_on_at_once(api: ApiServer, clock: HandClock) -> None:
    async with running(api, A, clock) as one:
        await one.follow()
    async with running(api, A, clock) as again:
        assert await again.follow()


async def test_the_other_s_clock_does_not_count(api: ApiServer, clock: HandClock) -> None:
    """Neither one that is late nor one that is early makes its Lease run out, or last."""
    slow, fast = HandClock(), HandClock()
    fast.seconds = 1e6
    api.give("a", STRANGER, slow)
    api.give("b", STRANGER, fast)
    clock.seconds = 5e5
    async with running(api, A, clock) as one:
        for namespace in ("a", "b"):
            assert not await one.follow(namespace)
        await clock.advance(DURATION_SECONDS + LOOK_SECONDS)
        assert one.leases.is_held("a")
        assert one.leases.is_held("b")


async def test_the_duration_is_the_one_that_the_holder_wrote(api: ApiServer, clock: HandClock) -> None:
    api.give("a", STRANGER, clock)
    api.leases["a"]["spec"]["leaseDurationSeconds"] = 300
    async with running(api, A, clock) as one:
        await one.follow()
        await clock.advance(299)
        assert not one.may_act()
        await clock.advance(1 + LOOK_SECONDS)
        assert one.may_act()


async def test_a_label_from_somebody_is_no_sign_of_life(api: ApiServer, clock: HandClock) -> None:
    api.give("a", STRANGER, clock)
    async with running(api, A, clock) as one:
        await one.follow()
        await clock.advance(DURATION_SECONDS - 5)
        labelled = api.leases["a"] | {}
        labelled["metadata"] |= {"labels": {"some": "label"}, "resourceVersion": "labelled"}
        await clock.advance(5 + LOOK_SECONDS)
        assert one.may_act()
        assert api.leases["a"]["metadata"]["labels"] == {"some": "label"}, "which stays"


async def test_whoever_lost_it_stops_acting_and_tells(
    api: ApiServer, clock: HandClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with running(api, A, clock) as one:
        await one.follow()
        api.give("a", STRANGER, clock)
        await clock.advance(RENEW_SECONDS)
        assert not one.may_act()
        assert not one.is_ready
        assert "lost the Lease a/neuronmodel-operator to team/other-9f" in caplog.text


async def test_a_lease_that_somebody_deleted_is_made_again(api: ApiServer, clock: HandClock) -> None:
    async with running(api, A, clock) as one:
        await one.follow()
        del api.leases["a"]
        await clock.advance(RENEW_SECONDS)
        assert one.may_act()
        assert api.holder("a") == A


async def test_of_two_that_come_at_once_one_may_act(api: ApiServer, clock: HandClock) -> None:
    async with running(api, A, clock) as one, running(api, STRANGER, clock) as other:
        waiting = [asyncio.create_task(each.leases.wait_until_held("a")) for each in (one, other)]
        await clock.advance(0)
        assert one.may_act() != other.may_act()
        for task in waiting:
            task.cancel()


LEASE_ERRORS = [
    FORBIDDEN,
    ApiError(500, "InternalError", 'failed calling webhook "leases.example.com"'),
    ApiError(429, "TooManyRequests", "later", retry_after=1),
    ApiError(422, "Invalid", "a policy says no"),
    NO_ANSWER,
]


@pytest.mark.parametrize("error", LEASE_ERRORS, ids=lambda error: str(error.status))
@pytest.mark.parametrize("verbs", [("create", "replace"), ("get", "create", "replace")], ids="-".join)
async def test_what_is_wrong_with_the_lease_alone_stops_nobody(
    api: ApiServer, clock: HandClock, error: ApiError, verbs: tuple[str, ...]
) -> None:
    api.errors = dict.fromkeys(verbs, error)
    async with running(api, A, clock) as one:
        assert await one.follow()
        await clock.advance(10 * DURATION_SECONDS)
        assert one.may_act()
        assert one.is_ready
        (remark,) = one.leases.remarks()
        assert error.message in remark
        api.errors = {}
        await clock.advance(RENEW_SECONDS)
        assert one.leases.remarks() == []
        assert api.holder("a") == A


@pytest.mark.parametrize("error", LEASE_ERRORS, ids=lambda error: str(error.status))
async def test_nor_when_it_held_it_before(api: ApiServer, clock: HandClock, error: ApiError) -> None:
    async with running(api, A, clock) as one:
        await one.follow()
        api.errors = {"replace": error, "create": error}
        await clock.advance(10 * DURATION_SECONDS)
        assert one.may_act()
        assert one.is_ready


@pytest.mark.parametrize("held", [True, False])
async def test_a_webhook_that_says_conflict_is_nobody_who_was_quicker(
    api: ApiServer, clock: HandClock, held: bool
) -> None:
    async with running(api, A, clock) as one:
        if held:
            await one.follow()
        api.errors = dict.fromkeys(("create", "replace"), ApiError(409, "Conflict", "denied: somebody was quicker"))
        assert await one.follow()
        await clock.advance(10 * DURATION_SECONDS)
        assert one.may_act()
        (remark,) = one.leases.remarks()
        assert "somebody was quicker" in remark


async def test_an_error_that_persists_is_logged_once(
    api: ApiServer, clock: HandClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    api.errors = {"create": FORBIDDEN}
    async with running(api, A, clock) as one:
        await one.follow()
        await clock.advance(100)
        assert caplog.text.count("acting without the Lease") == 1
        api.errors = {}
        await clock.advance(RENEW_SECONDS)
        assert caplog.text.count("holding the Lease") == 1


async def test_a_refused_write_does_not_hide_a_second_operator(api: ApiServer, clock: HandClock) -> None:
    async with running(api, A, clock) as one:
        await one.follow()
        api.errors = {"replace": FORBIDDEN}
        await clock.advance(RENEW_SECONDS)
        assert one.may_act()
        api.give("a", STRANGER, clock)
        await clock.advance(LOOK_SECONDS)
        assert not one.may_act()


async def test_who_stands_by_does_not_act_in_an_outage_and_gives_the_holder_time_after_it(
    api: ApiServer, clock: HandClock
) -> None:
    async with running(api, A, clock) as one, running(api, STRANGER, clock) as other:
        await one.follow()
        await other.follow()
        api.errors = dict.fromkeys(("get", "create", "replace"), NO_ANSWER)
        await clock.advance(10 * DURATION_SECONDS)
        assert not other.may_act()
        assert one.may_act(), "as far as it knows"
        api.errors = {}
        await clock.advance(RENEW_SECONDS)
        assert one.may_act()
        assert not other.may_act()


async def test_who_may_not_read_it_waits_no_longer_than_the_duration(api: ApiServer, clock: HandClock) -> None:
    api.give("a", STRANGER, clock)
    async with running(api, A, clock) as one:
        await one.follow()
        api.errors = {"get": FORBIDDEN}
        await clock.advance(DURATION_SECONDS - 1)
        assert not one.may_act()
        await clock.advance(1 + LOOK_SECONDS)
        assert one.may_act()
        assert one.leases.remarks()


async def test_a_process_that_did_not_run_for_long_may_not_act_until_it_has_looked(
    api: ApiServer, clock: HandClock
) -> None:
    async with running(api, A, clock) as one:
        await one.follow()
        clock.seconds += 2 * DURATION_SECONDS  # as after SIGSTOP: no alarm went off
        assert not one.may_act()
        api.give("a", STRANGER, clock)
        await clock.advance(0)
        assert not one.may_act()


async def test_a_namespace_that_is_being_deleted_is_seen_through_without_a_word(
    api: ApiServer, clock: HandClock
) -> None:
    terminating = ApiError(403, "Forbidden", "it is being terminated", causes=frozenset({"NamespaceTerminating"}))
    api.errors = {"create": terminating}
    async with running(api, A, clock) as one:
        assert await one.follow()
        assert one.leases.remarks() == []


async def test_a_namespace_that_is_gone_holds_nobody_up_and_is_forgotten(api: ApiServer, clock: HandClock) -> None:
    async with running(api, A, clock) as one:
        await one.follow()
        api.gone.add("a")
        del api.leases["a"]
        await clock.advance(RENEW_SECONDS)
        assert one.may_act()
        assert one.leases.remarks() == []
        await clock.advance(GONE_SECONDS + RENEW_SECONDS)
        api.calls.clear()
        await clock.advance(10 * RENEW_SECONDS)
        assert api.calls == []
        api.gone.clear()
        assert await one.follow(), "one that is made again is followed again"
        assert api.holder("a") == A


async def test_a_mistake_of_ours_stops_nobody(
    api: ApiServer, clock: HandClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise KeyError("spec")

    monkeypatch.setattr(lease_record, "taken", fails)
    async with running(api, A, clock) as one:
        assert await one.follow()
        assert "KeyError" in one.leases.remarks()[0]


async def test_a_lease_that_is_not_answered_for_is_given_up_in_time(
    api: ApiServer, clock: HandClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def forever(*_: object) -> dict[str, Any]:
        await asyncio.Event().wait()
        raise AssertionError

    monkeypatch.setattr("neuronmodel_operator.cluster.leases.CALL_SECONDS", 0.01)
    monkeypatch.setattr(api, "create", forever)
    async with running(api, A, clock) as one:
        await one.leases.wait_until_held("a")
        assert "did not answer" in one.leases.remarks()[0]
