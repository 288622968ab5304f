"""What applies to every request, whichever server answers it: API key, metrics, errors in OpenAI's format, draining."""

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from aiohttp import web

from neuronmodel_worker.report.metrics import WorkerMetrics
from neuronmodel_worker.serve.api_keys import ApiKey

log = logging.getLogger(__name__)

MAX_REQUEST_BYTES = 16 << 20

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass
class OpenAIError(Exception):
    """An error that becomes a response in OpenAI's format."""

    status: int
    message: str
    kind: str = "invalid_request_error"
    code: str | None = None
    param: str | None = None

    def response(self) -> web.Response:
        error = {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}
        return web.json_response({"error": error}, status=self.status)


@dataclass
class Middleware:
    """Authorizes and counts requests. `draining` makes every response close its connection."""

    metrics: WorkerMetrics
    key: ApiKey | None = None
    in_flight: int = 0
    draining: bool = False

    def application(self) -> web.Application:
        """Returns an application that has no routes yet."""
        return web.Application(middlewares=[self._account], client_max_size=MAX_REQUEST_BYTES)

    @web.middleware
    async def _account(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        status = 499  # counted when the client closes the connection first
        self.in_flight += 1
        self.metrics.in_flight.inc()
        try:
            response = await self._answer(request, handler)
            status = response.status
            return response
        finally:
            self.in_flight -= 1
            self.metrics.in_flight.dec()
            resource = request.match_info.route.resource
            self.metrics.requests.labels(resource.canonical if resource else "unknown", str(status)).inc()

    async def _answer(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            self._authorize(request)
            response = await handler(request)
        except OpenAIError as error:
            response = error.response()
        except web.HTTPException as error:
            response = OpenAIError(error.status, f"{error.reason}: {request.method} {request.path}").response()
        except ConnectionResetError:
            raise
        except Exception:
            log.exception("a request failed")
            response = OpenAIError(
                500, "The server made a mistake; its log has the traceback.", "server_error"
            ).response()
        if not response.prepared:
            self.close_if_draining(response)
        return response

    def close_if_draining(self, response: web.StreamResponse) -> None:
        """Makes the client open its next connection elsewhere. Call it before the response's headers are sent."""
        if self.draining:
            response.force_close()

    def _authorize(self, request: web.Request) -> None:
        if self.key and not self.key.admits(request.headers.get("Authorization")):
            message = "The API key is missing or wrong. Send it as `Authorization: Bearer <key>`."
            raise OpenAIError(401, message, "authentication_error", "invalid_api_key")


__all__ = ["MAX_REQUEST_BYTES", "Handler", "Middleware", "OpenAIError"]
