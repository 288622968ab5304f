"""The admin port: the worker's state for the kubelet, the operator and Prometheus, always over plain HTTP.

It has a thread and an event loop of its own, so it answers while the main thread reads, compiles or imports.
"""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from aiohttp import web

from neuronmodel_api.reasons import Reason
from neuronmodel_api.report import State
from neuronmodel_worker.failures import WorkerFailure
from neuronmodel_worker.report.clock import StartClock
from neuronmodel_worker.report.metrics import CONTENT_TYPE, WorkerMetrics


class PortTaken(WorkerFailure):
    reason = Reason.PORT_TAKEN

    def __init__(self, port: int, error: OSError) -> None:
        super().__init__(
            f"Port {port} cannot be opened: {error.strerror or error}. Choose another port, or stop what has it."
        )


def admin_application(clock: StartClock, metrics: WorkerMetrics) -> web.Application:
    """Builds the routes: /healthz, /readyz, /status and /metrics."""

    async def healthz(_: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def readyz(_: web.Request) -> web.Response:
        state = clock.state
        return web.Response(text=f"{state}\n", status=200 if state is State.READY else 503)

    async def status(_: web.Request) -> web.Response:
        return web.json_response(clock.snapshot().to_json())

    async def exposition(_: web.Request) -> web.Response:
        return web.Response(body=await metrics.exposition(), headers={"Content-Type": CONTENT_TYPE})

    application = web.Application()
    application.add_routes(
        [
            web.get("/healthz", healthz),
            web.get("/readyz", readyz),
            web.get("/status", status),
            web.get("/metrics", exposition),
        ]
    )
    return application


@contextmanager
def admin_server(clock: StartClock, metrics: WorkerMetrics, port: int) -> Iterator[None]:
    """Listens on `port` of every address for the length of the context. Raises PortTaken."""
    loop = asyncio.new_event_loop()
    runner = web.AppRunner(admin_application(clock, metrics), access_log=None)
    try:
        loop.run_until_complete(runner.setup())
        loop.run_until_complete(web.TCPSite(runner, "0.0.0.0", port).start())  # noqa: S104 - the kubelet asks by pod IP
    except OSError as error:
        loop.run_until_complete(runner.cleanup())
        loop.close()
        raise PortTaken(port, error) from error
    thread = threading.Thread(target=loop.run_forever, name="admin", daemon=True)
    thread.start()
    try:
        yield
    finally:
        asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
