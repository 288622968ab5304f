"""What the operator may do, as reviews tell it."""

import asyncio
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from neuronmodel_operator.cluster import client
from neuronmodel_operator.cluster.client import ApiError, Kind
from neuronmodel_operator.cluster.permissions import LACKING_SECONDS, LOOK_SECONDS, RIGHTS, Right, Rights, lacking
from tests.unit.operator.hand_clock import HandClock

ALL = [{"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}]


def rules(*without: Right) -> list[dict[str, list[str]]]:
    return [
        {"apiGroups": [right.group], "resources": [right.resource], "verbs": [right.verb]}
        for right in RIGHTS
        if right not in without
    ]


class Reviewer:
    """Answers reviews."""

    def __init__(self) -> None:
        self.rules: dict[str, list[dict[str, list[str]]]] = {}
        """By namespace."""
        self.allowed: set[Right] = set()
        """Beyond the rules, as by an authorizer that can't list its own."""
        self.is_incomplete = False
        self.error: ApiError | None = None
        self.asked: list[str] = []

    async def create(self, kind: Kind, namespace: str | None, manifest: Mapping[str, Any]) -> dict[str, Any]:
        self.asked.append(kind.kind)
        if self.error:
            raise self.error
        spec = manifest["spec"]
        if kind is client.RULES_REVIEW:
            found = self.rules.get(spec["namespace"], rules())
            return {"status": {"resourceRules": found, "incomplete": self.is_incomplete}}
        return {
            "status": {
                "allowed": any(right.attributes.items() <= spec["resourceAttributes"].items() for right in self.allowed)
            }
        }


@pytest.fixture
def reviewer() -> Reviewer:
    return Reviewer()


def documented() -> Iterator[Right]:
    """The table in the client's docstring."""
    rows = [line.strip("|").split("|") for line in (client.__doc__ or "").splitlines() if line.startswith("| ")][2:]
    for group, resource, verbs, _ in ([cell.strip() for cell in row] for row in rows):
        yield from (Right("" if group == "core" else group, resource, verb) for verb in verbs.split(", "))


def test_what_is_looked_for_is_what_the_client_documents() -> None:
    assert list(documented()) == list(RIGHTS)


def test_nothing_lacks_where_all_is_granted() -> None:
    assert lacking(ALL) == ()
    assert lacking(rules()) == ()


@pytest.mark.parametrize("right", RIGHTS, ids=lambda right: f"{right.verb}-{right.resource}")
def test_each_right_is_missed(right: Right) -> None:
    assert lacking(rules(right)) == (right,)


@pytest.mark.parametrize(
    "rule",
    [
        {"apiGroups": ["neuronmodel.dev"], "resources": ["neuronmodels"], "verbs": ["patch"]},
        {"apiGroups": [""], "resources": ["neuronmodels/status"], "verbs": ["patch"]},
        {"apiGroups": ["neuronmodel.dev"], "resources": ["neuronmodels/status"], "verbs": ["get"]},
        {
            "apiGroups": ["neuronmodel.dev"],
            "resources": ["neuronmodels/status"],
            "verbs": ["patch"],
            "resourceNames": ["one"],
        },
        {},
    ],
)
def test_what_grants_something_else_does_not_grant_it(rule: dict[str, list[str]]) -> None:
    status = Right("neuronmodel.dev", "neuronmodels/status", "patch")
    assert lacking([*rules(status), rule]) == (status,)


async def test_a_sentence_names_verbs_resource_namespace_and_what_to_do(reviewer: Reviewer) -> None:
    reviewer.rules["b"] = rules(Right("apps", "deployments", "create"), Right("apps", "deployments", "patch"))
    rights = Rights(reviewer, ("a", "b"), HandClock())
    await rights.look()
    (sentence,) = rights.complaints()
    assert "namespace b: create, patch deployments.apps." in sentence
    assert "Role and RoleBinding" in sentence
    assert "helm upgrade" in sentence


async def test_an_operator_of_all_namespaces_needs_what_is_granted_in_none_alone(reviewer: Reviewer) -> None:
    reviewer.rules["*"] = []
    rights = Rights(reviewer, (), HandClock())
    await rights.look()
    (sentence,) = rights.complaints()
    assert "in all namespaces: get, list, watch, patch neuronmodels.neuronmodel.dev; " in sentence
    assert "ClusterRole and ClusterRoleBinding" in sentence
    assert len(sentence) < 500


async def test_where_rules_are_not_all_listed_each_missing_one_is_asked_for(reviewer: Reviewer) -> None:
    granted, missing = Right("batch", "jobs", "create"), Right("", "events", "patch")
    reviewer.rules["a"] = rules(granted, missing)
    reviewer.allowed, reviewer.is_incomplete = {granted}, True
    rights = Rights(reviewer, ("a",), HandClock())
    await rights.look()
    assert "in namespace a: patch events." in rights.complaints()[0]
    assert reviewer.asked == ["SelfSubjectRulesReview", "SelfSubjectAccessReview", "SelfSubjectAccessReview"]


async def test_without_an_answer_the_last_one_stands(reviewer: Reviewer) -> None:
    rights = Rights(reviewer, ("a",), HandClock())
    await rights.look()
    reviewer.error = ApiError(500, "InternalError", "no")
    await rights.look()
    assert rights.complaints() == []
    reviewer.error, reviewer.rules["a"] = None, []
    await rights.look()
    reviewer.error = ApiError(0, "NoAnswer", "no")
    await rights.look()
    assert rights.complaints()


async def test_a_loss_and_its_end_are_noticed_in_time(reviewer: Reviewer) -> None:
    clock = HandClock()
    rights = Rights(reviewer, ("a",), clock)
    runner = asyncio.create_task(rights.run())
    await clock.advance(5 * LOOK_SECONDS)
    assert len(reviewer.asked) <= 6
    reviewer.rules["a"] = []
    await clock.advance(LOOK_SECONDS)
    assert rights.complaints()
    reviewer.rules["a"] = rules()
    await clock.advance(LACKING_SECONDS)
    assert rights.complaints() == []
    runner.cancel()


async def test_a_call_that_was_denied_hastens_the_look_and_a_thousand_are_no_stampede(reviewer: Reviewer) -> None:
    clock = HandClock()
    rights = Rights(reviewer, ("a",), clock)
    runner = asyncio.create_task(rights.run())
    await clock.advance(LACKING_SECONDS)
    reviewer.rules["a"] = []
    rights.suspect()
    await clock.advance(0)
    assert rights.complaints()
    reviewer.rules["a"] = rules()
    reviewer.asked.clear()
    for _ in range(100):
        rights.suspect()
        await clock.advance(0.1)
    assert len(reviewer.asked) <= 10 / LACKING_SECONDS + 1
    runner.cancel()
