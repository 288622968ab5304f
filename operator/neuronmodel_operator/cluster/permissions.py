"""The permissions that the operator needs, and whether they are granted. They are checked actively, as many are used
rarely.

A check is one SelfSubjectRulesReview per watched namespace, or a single one where all are watched. Every account may
create it; the API server answers from memory, in about 6 ms including the network, and stores nothing.
"""

import asyncio
import logging
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from neuronmodel_operator.clock import Clock
from neuronmodel_operator.cluster import client
from neuronmodel_operator.cluster.client import ApiError, Kind

LOOK_SECONDS: Final = 10.0
"""The interval between checks; a watch that was authorized when it started goes on for up to a minute after the
permission is gone, without an error."""
LACKING_SECONDS: Final = 3.0
"""The interval while permissions are missing, and the shortest one, however many calls are denied."""
SECONDS_A_NAMESPACE: Final = 0.5
"""An operator that watches hundreds of namespaces makes at most two requests a second."""
ANY_NAMESPACE: Final = "*"
"""A name that no namespace can have: what is granted there is granted in all namespaces."""
MAX_NAMED: Final = 4
"""The most resources, and namespaces, that a sentence lists."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Right:
    group: str
    resource: str
    """The resource with its subresource, such as neuronmodels/status."""
    verb: str

    @property
    def attributes(self) -> dict[str, str]:
        """The permission as the attributes of a SelfSubjectAccessReview."""
        resource, _, subresource = self.resource.partition("/")
        about = {"group": self.group, "resource": resource, "verb": self.verb}
        return about | ({"subresource": subresource} if subresource else {})


def _rights(group: str, resource: str, verbs: str) -> tuple[Right, ...]:
    return tuple(Right(group, resource, verb) for verb in verbs.split())


RIGHTS: Final = (
    *_rights("neuronmodel.dev", "neuronmodels", "get list watch patch"),
    *_rights("neuronmodel.dev", "neuronmodels/status", "patch"),
    *_rights("neuronmodel.dev", "neuronmodels/finalizers", "update"),
    *_rights("apps", "deployments", "get list watch create patch delete"),
    *_rights("apps", "replicasets", "list watch"),
    *_rights("batch", "jobs", "get list watch create delete"),
    *_rights("", "services", "get list watch create patch delete"),
    *_rights("", "persistentvolumeclaims", "get list watch create patch delete"),
    *_rights("", "pods", "list watch"),
    *_rights("", "events", "get list create patch"),
    *_rights("", "namespaces", "get"),
    *_rights("coordination.k8s.io", "leases", "get create update"),
)
"""The permissions that the table in `client` explains and the chart grants."""


def lacking(rules: Iterable[Mapping[str, Any]]) -> tuple[Right, ...]:
    """Returns those of RIGHTS that the rules of a review do not grant."""
    given = [rule for rule in rules if not rule.get("resourceNames")]
    return tuple(right for right in RIGHTS if not any(_grants(rule, right) for rule in given))


def _grants(rule: Mapping[str, Any], right: Right) -> bool:
    _, slash, subresource = right.resource.partition("/")
    resources = {"*", right.resource} | ({f"*/{subresource}"} if slash else set())
    return (
        not {"*", right.group}.isdisjoint(rule.get("apiGroups") or ())
        and not resources.isdisjoint(rule.get("resources") or ())
        and not {"*", right.verb}.isdisjoint(rule.get("verbs") or ())
    )


class CreatesReviews(Protocol):
    """The part of `client.Api` that checks need."""

    async def create(self, kind: Kind, namespace: str | None, manifest: Mapping[str, Any]) -> dict[str, Any]: ...


class Rights:
    """The permissions of this operator's account in the namespaces that it watches."""

    def __init__(self, api: CreatesReviews, namespaces: Sequence[str], clock: Clock) -> None:
        """If `namespaces` is empty, all namespaces are watched."""
        self._api = api
        self._namespaces: tuple[str | None, ...] = tuple(namespaces) or (None,)
        self._clock = clock
        self._lacking: dict[str | None, tuple[Right, ...]] = {}
        self._suspected = asyncio.Event()

    def suspect(self) -> None:
        """Called when a request was denied: the next check follows soon."""
        self._suspected.set()

    def complaints(self) -> list[str]:
        """Returns sentences that say what is missing, where, and what to do."""
        by_lack: defaultdict[tuple[Right, ...], list[str | None]] = defaultdict(list)
        for namespace, found in self._lacking.items():
            if found:
                by_lack[found].append(namespace)
        return [_sentence(found, namespaces) for found, namespaces in by_lack.items()]

    async def run(self) -> None:
        while True:
            await self.look()
            await self._clock.wait(asyncio.Event(), LACKING_SECONDS)
            if not self.complaints():
                pause = max(LOOK_SECONDS, SECONDS_A_NAMESPACE * len(self._namespaces))
                await self._clock.wait(self._suspected, pause - LACKING_SECONDS)

    async def look(self) -> None:
        """Checks all namespaces. Where the API server does not answer, the last result stays."""
        self._suspected.clear()
        for namespace in self._namespaces:
            try:
                self._lacking[namespace] = await self._look_at(namespace)
            except ApiError as error:
                _log.debug("can't find out what the operator may do in %s: %s", namespace or "all namespaces", error)

    async def _look_at(self, namespace: str | None) -> tuple[Right, ...]:
        spec = {"namespace": namespace or ANY_NAMESPACE}
        answer = (await self._api.create(client.RULES_REVIEW, None, _review(client.RULES_REVIEW, spec)))["status"]
        found = lacking(answer.get("resourceRules") or ())
        if not answer.get("incomplete"):
            return found
        # An authorizer that can't list its rules may still grant more: it is asked about each permission.
        return tuple([right for right in found if not await self._has(right, namespace)])

    async def _has(self, right: Right, namespace: str | None) -> bool:
        spec = {"resourceAttributes": right.attributes | ({"namespace": namespace} if namespace else {})}
        answer = await self._api.create(client.ACCESS_REVIEW, None, _review(client.ACCESS_REVIEW, spec))
        return bool(answer["status"].get("allowed"))


def _review(kind: Kind, spec: Mapping[str, Any]) -> dict[str, Any]:
    return {"apiVersion": kind.api_version, "kind": kind.kind, "spec": dict(spec)}


def _sentence(found: Sequence[Right], namespaces: Sequence[str | None]) -> str:
    verbs: defaultdict[str, list[str]] = defaultdict(list)
    for right in found:
        verbs[f"{right.resource}.{right.group}" if right.group else right.resource].append(right.verb)
    what = _listed([f"{', '.join(each)} {resource}" for resource, each in verbs.items()], "; ", "resources")
    if None in namespaces:
        where, remedy = "all namespaces", "its chart's ClusterRole and ClusterRoleBinding"
    else:
        where = f"namespace {_listed([each for each in namespaces if each], ', ', 'namespaces')}"
        remedy = "its chart's Role and RoleBinding there"
    return (
        f"The operator's account lacks rights in {where}: {what}. Restore {remedy}: "
        "`helm upgrade` of its release makes them again."
    )


def _listed(found: Sequence[str], separator: str, what: str) -> str:
    more = f"{separator}and {len(found) - MAX_NAMED} more {what}" if len(found) > MAX_NAMED else ""
    return separator.join(found[:MAX_NAMED]) + more
