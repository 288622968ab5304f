"""The stand-in's own API, for tests in other processes: what came, what is to go wrong, who may read what."""

import json
from collections.abc import Callable
from dataclasses import fields
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from .access import Token
from .messages import Refused, Request, Response, json_response
from .rates import Limit
from .repository import Repository

if TYPE_CHECKING:
    from .server import Hub

Given = dict[str, Any]


class ControlOrigin:
    name = "control"

    def __init__(self, hub: "Hub") -> None:
        self._hub = hub
        self._answers: dict[tuple[str, str], Callable[[Given], object]] = {
            ("GET", ""): lambda given: hub.described(),
            ("GET", "requests"): lambda given: hub.requests.described(),
            ("POST", "reset"): self._reset,
            ("GET", "faults"): lambda given: [rule.described() for rule in hub.faults],
            ("POST", "faults"): lambda given: hub.faults.add(**given).described(),
            ("DELETE", "faults"): self._remove_faults,
            ("GET", "repositories"): lambda given: [_repository(repository) for repository in hub.repositories],
            ("POST", "tokens"): self._add_token,
            ("DELETE", "tokens"): self._revoke,
            ("POST", "settings"): self._set,
            ("POST", "down"): self._down,
            ("POST", "up"): lambda given: hub.up(),
        }

    def file(self, request: Request) -> str | None:
        return None

    def answer(self, request: Request) -> Response:
        """400 with a sentence for what is not understood."""
        try:
            given = json.loads(request.body) if request.body else {}
            name, _, id = request.path.strip("/").partition("/")
            if (request.method, name) == ("POST", "repositories"):
                return json_response(self._change_repository(unquote(id), given))
            if (request.method, name) not in self._answers:
                raise Refused(404, f"there is no {request.method} /{name}")
            return json_response(self._answers[request.method, name](given))
        except (KeyError, TypeError, ValueError, OSError) as error:
            raise Refused(400, f"{type(error).__name__}: {error}") from error

    def _reset(self, given: Given) -> object:
        """Requests, faults and used limits are forgotten; repositories, tokens and settings stay."""
        self._hub.requests.clear()
        self._hub.faults.clear()
        self._hub.rates.forget()
        return {}

    def _remove_faults(self, given: Given) -> object:
        if "id" in given:
            self._hub.faults.remove(given["id"])
        else:
            self._hub.faults.clear()
        return {}

    def _change_repository(self, id: str, given: Given) -> object:
        """Made where it is not there and a `folder` is given; `main` is a commit's sha."""
        hub, given = self._hub, dict(given)
        if "folder" in given:
            revision = hub.add_revision if id in hub.repositories else hub.add_repository
            revision(id, given.pop("folder"), *given.pop("names", ()))
        repository = hub.repository(id)
        if "rename" in given:
            hub.rename(id, given.pop("rename"), given.pop("status", 307))
        for name, value in given.items():
            if name not in ("private", "gated", "disabled", "grants", "main"):
                raise ValueError(f"a repository has no {name!r}")
            setattr(repository, name, set(value) if name == "grants" else value)
        return _repository(repository)

    def _add_token(self, given: Given) -> object:
        known = {field.name for field in fields(Token)}
        self._hub.access.tokens[given["token"]] = Token(**{name: given[name] for name in known & given.keys()})
        return {}

    def _revoke(self, given: Given) -> object:
        del self._hub.access.tokens[given["token"]]
        return {}

    def _set(self, given: Given) -> object:
        hub = self._hub
        for name, value in given.items():
            if name == "limits":
                hub.rates.limits |= {kind: Limit(**limit) for kind, limit in value.items()}
                continue
            owner = next((part for part in (hub.settings, hub.signer, hub.rates) if hasattr(part, name)), None)
            if owner is None or name.startswith("_"):
                raise ValueError(f"there is no setting {name!r}")
            setattr(owner, name, value)
        return {}

    def _down(self, given: Given) -> object:
        if given.get("down", True):
            self._hub.down()
        else:
            self._hub.up()
        return {}


def _repository(repository: Repository) -> Given:
    return {
        "id": repository.id,
        "private": repository.private,
        "gated": repository.gated,
        "disabled": repository.disabled,
        "grants": sorted(repository.grants),
        "refs": repository.refs,
        "commits": sorted(repository.commits),
    }
