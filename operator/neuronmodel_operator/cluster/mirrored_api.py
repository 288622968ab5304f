"""The API server, with children read from mirrors of what its watches said.

Where being late is harmless, and where it is not:

| read                                         | from    | because                                                     |
| -------------------------------------------- | ------- | ----------------------------------------------------------- |
| the NeuronModel                              | live    | what is wanted: an older spec would be carried out          |
| Deployment, Service, Jobs, pods, ReplicaSets | mirrors | a write is idempotent, has a name that can be taken once,   |
|                                              |         | or names the UID that it is for; an event follows           |
| claims                                       | mirrors | the same; nothing is deleted but by UID                     |
| who serves from a volume (before a Job that  | live    | what nobody uses is removed: a Deployment that is not seen  |
| may remove artifacts)                        |         | yet would lose its shards                                   |
| other NeuronModels, the namespace (deletion) | live    | the same, and once in a life                                |
| Events                                       | live    | not watched: there are too many, and only few are asked for |

Answers to writes go into the mirrors at once, so that no pass misses what the one before it wrote; an event that brings
an older version changes nothing. A look that no event asked for, as one that does not serve has not settled for ten
seconds, reads everything live and corrects the mirrors: it finds what a watch has missed.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final

from neuronmodel_api import names
from neuronmodel_operator.cluster import client
from neuronmodel_operator.cluster.client import Api, Kind, Object
from neuronmodel_operator.cluster.mirror import Mirror
from neuronmodel_operator.state.plan import ObjectRef

MIRRORED: Final = (
    client.DEPLOYMENT,
    client.REPLICA_SET,
    client.JOB,
    client.SERVICE,
    client.POD,
    client.CLAIM,
)
_OF_OWNER: Final = f"{names.LABEL_UID}="


IsCurrent = Callable[[Kind, str], bool]
"""Whether the mirror of a kind has what there is in a namespace."""


class MirroredApi:
    """What `observe` and `apply` need of `client.Api`, with fewer requests."""

    def __init__(self, api: Api, mirrors: Mapping[Kind, Mirror], is_current: IsCurrent) -> None:
        self._api = api
        self._mirrors = mirrors
        self._is_current = is_current

    @property
    def live(self) -> "LiveApi":
        """Reads everything live, and corrects the mirrors by it."""
        return LiveApi(self._api, self._mirrors, self._is_current)

    async def get(self, kind: Kind, namespace: str | None, name: str) -> Object | None:
        mirror = self._mirror(kind, namespace)
        if mirror is None or namespace is None:
            return await self.get_live(kind, namespace, name)
        return mirror.get(namespace, name)

    async def get_live(self, kind: Kind, namespace: str | None, name: str) -> Object | None:
        mirror, place = self._mirrors.get(kind), (namespace or "", name)
        before = mirror.version(*place) if mirror is not None else None
        found = await self._api.get(kind, namespace, name)
        if mirror is not None:
            mirror.correct({place: before} if before else {}, [found] if found else [])
        return found

    async def list(
        self, kind: Kind, namespace: str | None, *, labels: str | None = None, fields: str | None = None
    ) -> tuple[Object, ...]:
        mirror = self._mirror(kind, namespace)
        if mirror is None or fields or not labels or not labels.startswith(_OF_OWNER):
            return await self._list_live(kind, namespace, labels, fields)
        return mirror.of_owner(labels.removeprefix(_OF_OWNER))

    async def _list_live(
        self, kind: Kind, namespace: str | None, labels: str | None, fields: str | None
    ) -> tuple[Object, ...]:
        mirror = self._mirrors.get(kind)
        if mirror is None or fields or not labels or not labels.startswith(_OF_OWNER):
            return await self._api.list(kind, namespace, labels=labels, fields=fields)
        before = mirror.versions_of(labels.removeprefix(_OF_OWNER))
        found = await self._api.list(kind, namespace, labels=labels)
        mirror.correct(before, found)
        return found

    def _mirror(self, kind: Kind, namespace: str | None) -> Mirror | None:
        """None where the mirror would not do: nothing has been listed yet, or the watch has failed for a while. Then
        what is read live says why, if that fails too."""
        mirror = self._mirrors.get(kind)
        return mirror if mirror is not None and self._is_current(kind, namespace or "") else None

    async def create(self, kind: Kind, namespace: str | None, manifest: Mapping[str, Any]) -> Object:
        return self._heeded(kind, await self._api.create(kind, namespace, manifest))

    async def apply(self, kind: Kind, namespace: str, manifest: Mapping[str, Any]) -> Object:
        return self._heeded(kind, await self._api.apply(kind, namespace, manifest))

    async def merge(
        self, kind: Kind, namespace: str, name: str, patch: Mapping[str, Any], subresource: str | None = None
    ) -> Object:
        return self._heeded(kind, await self._api.merge(kind, namespace, name, patch, subresource))

    async def delete(self, kind: Kind, namespace: str | None, ref: ObjectRef) -> None:
        """An event says when it is gone: until then it is there, on its way out."""
        await self._api.delete(kind, namespace, ref)

    def _heeded(self, kind: Kind, answer: Object) -> Object:
        if (mirror := self._mirrors.get(kind)) is not None:
            mirror.put(answer)
        return answer


class LiveApi(MirroredApi):
    """For looks that no event asked for: they find what the watches missed."""

    def _mirror(self, kind: Kind, namespace: str | None) -> Mirror | None:
        return None
