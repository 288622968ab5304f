"""The Hub itself: which part answers a request, and how many requests are left."""

import secrets

from ..faulty_http import KnownAs, Request, Response
from . import rates
from .access import Access, Token
from .model_api import ModelApi
from .refusals import Refused, json_response
from .repository import Repositories
from .resolving import Resolving
from .routes import page_not_found
from .settings import Addresses, Settings
from .signing import Signer


class HubOrigin:
    name = "hub"

    def __init__(
        self,
        repositories: Repositories,
        access: Access,
        signer: Signer,
        limits: rates.Rates,
        addresses: Addresses,
        settings: Settings,
    ) -> None:
        self._access = access
        self._rates = limits
        self._models = ModelApi(repositories, signer, addresses, settings)
        self._files = Resolving(repositories, signer, addresses, settings)

    def answer(self, request: Request) -> Response:
        """With the limits in every answer."""
        limits = self._limits(request)
        try:
            response = self._routed(request, self._access.token(request.authorization))
        except Refused as refused:
            response = refused.response()
        response.headers |= {**limits, "X-Powered-By": "huggingface-moon", "X-Request-Id": _request_id()}
        return response

    def known_as(self, request: Request) -> KnownAs:
        return KnownAs(self._files.file(request))

    def _limits(self, request: Request) -> dict[str, str]:
        """The redirect was counted already when its target is asked for."""
        user, parts = self._access.user(request.authorization), request.segments
        if parts[:2] == ["api", "resolve-cache"]:
            return self._rates.take(rates.RESOLVERS, user, cost=0)
        kind = rates.API if parts[0] == "api" else rates.RESOLVERS if "resolve" in parts[1:3] else rates.PAGES
        return self._rates.take(kind, user)

    def _routed(self, request: Request, token: Token | None) -> Response:
        parts = request.segments
        if parts[:2] == ["api", "models"] and len(parts) > 2:
            return self._models.answer(request, parts[2:], token)
        if parts[:3] == ["api", "resolve-cache", "models"]:
            return self._files.cached(request, parts[3:], token)
        if parts == ["api", "whoami-v2"]:
            return _whoami(token)
        if "resolve" in parts[1:3]:
            return self._files.answer(request, token)
        raise page_not_found()


def _whoami(token: Token | None) -> Response:
    if token is None:
        raise Refused(401, "Invalid username or password.")
    return json_response({"type": "user", "name": token.user, "fullname": token.user, "orgs": []})


def _request_id() -> str:
    return f"Root=1-{secrets.token_hex(4)}-{secrets.token_hex(12)}"
