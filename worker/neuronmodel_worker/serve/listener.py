"""The serving port, from the moment the model is ready until the last answer has been sent.

It opens when the model is ready and not before: a connection is refused rather than kept waiting, and the kubelet asks
the admin port. After SIGTERM the worker stops being ready at once, while the port stays open for a moment for requests
that were sent before the endpoint's removal had reached every node. Then it closes, and the answers in progress may
take `shutdown_seconds` in all.
"""

import asyncio
import logging
import signal
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from aiohttp import web

from neuronmodel_api.config import WorkerConfig
from neuronmodel_worker.report.admin import PortTaken
from neuronmodel_worker.run.signals import termination_signal
from neuronmodel_worker.serve.middleware import Middleware

log = logging.getLogger(__name__)

LINGER_SECONDS = 2.0
"""How long kube-proxy and clients may need to learn that this endpoint is being removed."""
POLL_SECONDS = 0.05


@dataclass(frozen=True)
class Listener:
    """An open serving port."""

    middleware: Middleware
    site: web.TCPSite

    async def drain(self, seconds: float) -> None:
        """Keeps the port open for LINGER_SECONDS, then closes it. Requests in progress have `seconds` in all to
        finish."""
        self.middleware.draining = True
        began = time.monotonic()
        await _until(lambda: False, began + min(LINGER_SECONDS, seconds))
        await self.site.stop()
        if not await _until(lambda: self.middleware.in_flight == 0, began + seconds):
            log.warning(
                "%d answers were not finished within %d s and are cut off", self.middleware.in_flight, round(seconds)
            )


@asynccontextmanager
async def open_listener(
    middleware: Middleware, application: web.Application, config: WorkerConfig
) -> AsyncIterator[Listener]:
    """Raises PortTaken."""
    runner = web.AppRunner(application, access_log=None, handler_cancellation=True, shutdown_timeout=1)
    await runner.setup()
    site = web.TCPSite(runner, "0.0.0.0", config.serving_port)  # noqa: S104 - a Service sends traffic to the pod's IP
    try:
        await site.start()
    except OSError as error:
        await runner.cleanup()
        raise PortTaken(config.serving_port, error) from error
    try:
        yield Listener(middleware, site)
    finally:
        await runner.cleanup()


def stop_event() -> asyncio.Event:
    """An event that SIGTERM and SIGINT set from now on.

    Raises TerminatedBySignal when a signal arrived earlier and other code caught its exception.
    """
    if stopped := termination_signal():
        raise stopped
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    return stop


async def _until(holds: Callable[[], bool], deadline: float) -> bool:
    """Polls until `holds` returns true, and returns false if that has not happened by the deadline."""
    while not holds():
        if time.monotonic() >= deadline:
            return False
        await asyncio.sleep(POLL_SECONDS)
    return True
