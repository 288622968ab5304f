from aiohttp import ClientSession, web
from aiohttp.test_utils import TestServer

from neuronmodel_operator.cluster import client
from tests.campaign.history import following

POD = {"metadata": {"name": "pod", "namespace": "here-1", "uid": "first", "resourceVersion": "5"}}
AGAIN = {"metadata": {**POD["metadata"], "uid": "second", "resourceVersion": "9"}}


async def test_what_went_while_nobody_watched_is_seen_to_have_gone() -> None:
    """A watch that ends, as with an API server that is restarted, and a list that has another pod of that name."""
    lists = [[POD], [AGAIN], []]

    async def pods(request: web.Request) -> web.Response:
        if "watch" in request.query:
            return web.Response(text="")
        found = lists.pop(0) if lists else []
        return web.json_response({"metadata": {"resourceVersion": "10"}, "items": found})

    app = web.Application()
    app.router.add_get("/api/v1/pods", pods)
    async with (
        TestServer(app) as server,
        ClientSession() as session,
        following(session, str(server.make_url("")).rstrip("/"), "here", 10.0) as history,
    ):
        chronicle = history.of("here-1")
        await chronicle.until(lambda c: len(c.versions) == 4, "both there and gone")
    assert [(each.object["metadata"]["uid"], each.number, each.is_deleted) for each in chronicle.versions] == [
        ("first", 5, False),
        ("first", 6, True),
        ("second", 9, False),
        ("second", 10, True),
    ]
    assert not chronicle.of_kind(client.POD)
