"""A stand-in's own API, for tests in other processes: what came, what is to go wrong, and whether it is there."""

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from .messages import Request, Response, json_response
from .origins import KnownAs

if TYPE_CHECKING:
    from .server import FaultyServer

Given = dict[str, Any]


class _NotThere(Exception):
    """There is nothing at this path."""


class ControlOrigin:
    """A stand-in adds to `answers`, by method and path, and to `named`, where a name follows the path."""

    name = "control"

    def __init__(self, server: "FaultyServer") -> None:
        self._server = server
        self.answers: dict[tuple[str, str], Callable[[Given], object]] = {
            ("GET", ""): lambda given: server.described(),
            ("GET", "requests"): lambda given: server.requests.described(),
            ("POST", "reset"): lambda given: self.reset(),
            ("GET", "faults"): lambda given: [rule.described() for rule in server.faults],
            ("POST", "faults"): lambda given: server.faults.add(**given).described(),
            ("DELETE", "faults"): self._remove_faults,
            ("POST", "down"): lambda given: server.down() if given.get("down", True) else server.up(),
            ("POST", "up"): lambda given: server.up(),
        }
        self.named: dict[tuple[str, str], Callable[[str, Given], object]] = {}

    def reset(self) -> None:
        """Requests and faults are forgotten; what is served stays."""
        self._server.requests.clear()
        self._server.faults.clear()

    def known_as(self, request: Request) -> KnownAs:
        return KnownAs()

    def answer(self, request: Request) -> Response:
        """400 with a sentence for what is not understood; an empty object where there is nothing to tell."""
        try:
            told = self._answer(request, json.loads(request.body) if request.body else {})
            return json_response({} if told is None else told)
        except _NotThere:
            return json_response({"error": f"there is no {request.method} {request.path}"}, 404)
        except (KeyError, TypeError, ValueError, OSError) as error:
            return json_response({"error": f"{type(error).__name__}: {error}"}, 400)

    def _answer(self, request: Request, given: Given) -> object:
        name, _, rest = request.quoted_path.strip("/").partition("/")
        if rest and (request.method, name) in self.named:
            return self.named[request.method, name](unquote(rest), given)
        if rest or (request.method, name) not in self.answers:
            raise _NotThere
        return self.answers[request.method, name](given)

    def _remove_faults(self, given: Given) -> None:
        if "id" in given:
            self._server.faults.remove(given["id"])
        else:
            self._server.faults.clear()
