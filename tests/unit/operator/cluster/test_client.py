"""What is kept of the API server's answers."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web
from kubernetes.aio.client import ApiClient, Configuration

from neuronmodel_operator.cluster import client
from neuronmodel_operator.cluster.client import Api

Object = dict[str, Any]
POD: Object = {"metadata": {"name": "one", "namespace": "demo", "resourceVersion": "7"}, "spec": {"node": "a"}}
MANAGED = POD | {"metadata": POD["metadata"] | {"managedFields": [{"manager": "somebody"}]}}
KIND = {"apiVersion": "v1", "kind": "Pod"}


@asynccontextmanager
async def served() -> AsyncIterator[Api]:
    """By an API server whose objects have managers."""

    async def answer(request: web.Request) -> web.Response:
        if request.query.get("watch"):
            status = {"kind": "Status", "metadata": {}, "code": 410}
            events = [{"type": "ADDED", "object": MANAGED}, {"type": "ERROR", "object": status}]
            return web.Response(text="".join(json.dumps(event) + "\n" for event in events))
        is_list = request.method == "GET" and request.path.endswith("/pods")
        return web.json_response({"metadata": {"resourceVersion": "9"}, "items": [MANAGED]} if is_list else MANAGED)

    application = web.Application()
    application.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(application)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    configuration = Configuration(host=f"http://127.0.0.1:{runner.addresses[0][1]}")
    try:
        async with ApiClient(configuration=configuration) as connected:
            yield Api(connected)
    finally:
        await runner.cleanup()


async def test_nothing_has_managed_fields() -> None:
    async with served() as api:
        assert await api.get(client.POD, "demo", "one") == POD
        assert await api.list(client.POD, "demo") == (POD | KIND,)
        assert (await api.list_page(client.POD, "demo", "", 10, "")).items == (POD,)
        assert await api.create(client.POD, "demo", POD) == POD
        assert await api.merge(client.POD, "demo", "one", {}) == POD
        events = [event async for event in api.watch(client.POD, "demo", "", "7", 1)]
    assert [event["object"].get("spec") for event in events] == [POD["spec"], None]
    assert events[0]["object"] == POD
