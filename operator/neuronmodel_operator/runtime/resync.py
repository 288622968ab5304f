"""The slow resync: all NeuronModels are listed once in a while, by their metadata, and compared with what was seen of
them. A change that the watch missed is found so, and where nothing has changed, nothing more is asked."""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from typing import Any, Final, Protocol

from neuronmodel_operator.cluster import client
from neuronmodel_operator.cluster.client import ApiError, Kind, Object, Page

RESYNC_SECONDS: Final = 300.0
AGAIN_SECONDS: Final = 30.0
"""After a list that failed."""
PAGE: Final = 500
"""Objects in one answer."""

_log = logging.getLogger(__name__)


class ListsMetadata(Protocol):
    """What a resync needs of `client.Api`."""

    async def list_page(
        self, kind: Kind, namespace: str | None, labels: str, limit: int, rest: str, *, metadata_only: bool = False
    ) -> Page: ...


class FollowsModels(Protocol):
    """What a resync needs of `tasks.Tasks`."""

    @property
    def followed(self) -> frozenset[str]: ...

    def models_listed(self, models: Sequence[Mapping[str, Any]], begun_with: frozenset[str]) -> None: ...


async def keep_in_sync(api: ListsMetadata, namespaces: Sequence[str], tasks: FollowsModels) -> None:
    """Runs until it is cancelled."""
    pause = RESYNC_SECONDS
    while True:
        await asyncio.sleep(pause)
        try:
            await resync(api, namespaces, tasks)
            pause = RESYNC_SECONDS
        except ApiError as error:
            _log.info("NeuronModels can't be listed for the resync: %s", error)
            pause = AGAIN_SECONDS


async def resync(api: ListsMetadata, namespaces: Sequence[str], tasks: FollowsModels) -> None:
    """Raises ApiError."""
    begun_with, models = tasks.followed, list[Object]()
    for namespace in namespaces or (None,):
        rest = ""
        while True:
            page = await api.list_page(client.MODEL, namespace, "", PAGE, rest, metadata_only=True)
            models += [{"metadata": _identity(item)} for item in page.items]
            if not (rest := page.rest):
                break
    tasks.models_listed(models, begun_with)


def _identity(item: Object) -> Object:
    return {key: item["metadata"][key] for key in ("namespace", "name", "uid", "resourceVersion")}
