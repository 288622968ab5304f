"""The wiring of the process and kopf's settings. kopf watches NeuronModels, `cluster.followers` what belongs to them;
both wake `runtime.tasks`."""

import asyncio
import logging
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from itertools import chain, repeat
from typing import Any, Final

import kopf

from neuronmodel_api import names
from neuronmodel_operator.clock import RealClock
from neuronmodel_operator.cluster import client, worker_reports
from neuronmodel_operator.cluster.client import Api, Kind
from neuronmodel_operator.cluster.followers import Followers
from neuronmodel_operator.cluster.lease_record import Holder
from neuronmodel_operator.cluster.leases import Leases
from neuronmodel_operator.cluster.mirrored_api import MirroredApi
from neuronmodel_operator.cluster.permissions import Rights
from neuronmodel_operator.reconcile.reconcile import reconcile
from neuronmodel_operator.runtime import health, logs
from neuronmodel_operator.runtime.health import Health, WatchPulse
from neuronmodel_operator.runtime.metrics import Metrics
from neuronmodel_operator.runtime.readiness import Readiness, Startup
from neuronmodel_operator.runtime.resync import keep_in_sync
from neuronmodel_operator.runtime.tasks import Tasks
from neuronmodel_operator.settings import Settings
from neuronmodel_operator.state.observed import Object

_log = logging.getLogger(__name__)

PAGE: Final = 500
"""Objects in one answer to a list."""
IDLE_SECONDS: Final = 0.5

MODELS: Final = (names.GROUP, names.VERSION, names.PLURAL)


@dataclass(frozen=True)
class Operator:
    """What kopf's handlers need."""

    api: Api
    startup: Startup
    pulse: WatchPulse
    leases: Leases
    followers: Followers
    tasks: Tasks
    settings: Settings


def main() -> None:
    """The command `neuronmodel-operator`."""
    # PID 1 of a container ignores SIGTERM until a handler is set; kopf sets its own only later.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    settings = Settings.from_environment(os.environ)
    logs.configure(os.environ.get("NEURONMODEL_LOG_FORMAT", "text"))
    asyncio.run(run(settings))


async def run(settings: Settings) -> None:
    """Runs until SIGTERM or SIGINT, or until a watch is lost."""
    async with assemble(settings) as operator:
        lost = asyncio.create_task(operator.pulse.lost.wait())
        # Before kopf, which cancels at its end whatever was begun after it.
        following = asyncio.create_task(operator.followers.run())
        watching = asyncio.create_task(
            kopf.operator(
                registry=wire(operator),
                settings=kopf_settings(),
                standalone=True,
                clusterwide=not settings.watch_namespaces,
                namespaces=settings.watch_namespaces,
            )
        )
        await asyncio.wait({lost, watching, following}, return_when=asyncio.FIRST_COMPLETED)
        if not lost.done() and not following.done():
            lost.cancel()
            following.cancel()
            return await watching
        if following.done():
            _log.error("following the children has ended", exc_info=following.exception())
    # Without such a watch kopf stops, but hangs: some of its tasks ignore their cancellation. The next process waits
    # until NeuronModels can be listed again.
    _log.error("the API server does not serve what is watched any more: this process ends, to be started again")
    logging.shutdown()
    os._exit(1)


@asynccontextmanager
async def assemble(settings: Settings) -> AsyncIterator[Operator]:
    """Assembles the operator and serves /healthz, /readyz and /metrics; on exit the parts are closed in reverse
    order."""
    async with AsyncExitStack() as stack:
        metrics, clock, startup = Metrics(), RealClock(), Startup()

        def count_call(verb: str, kind: str, status: int) -> None:
            metrics.count_call(verb, kind, status)
            if status == health.FORBIDDEN:
                rights.suspect()

        api = await stack.enter_async_context(client.connect(count_call, clock.correct))
        rights = Rights(api, settings.watch_namespaces, clock)
        pulse = WatchPulse(denied=rights.suspect)
        leases = Leases(api, identity(settings), clock)
        stack.push_async_callback(leases.release)
        # A watch keeps its connection: those of requests must not wait for one.
        watch_api = await stack.enter_async_context(client.connect(count_call, clock.correct, max_connections=0))

        def notify(kind: Kind, o: Object) -> None:
            if kind is client.CLAIM:
                tasks.claim_changed(o["metadata"]["namespace"], o["metadata"]["name"])
            else:
                tasks.child_changed(o["metadata"].get("labels") or {})

        followers = Followers(watch_api, settings.watch_namespaces, notify, clock.monotonic)
        metrics.show_mirrors(followers.sizes)
        metrics.show_watches(lambda: {names.KIND: pulse.age, **followers.ages()})
        session = await stack.enter_async_context(worker_reports.open_session())
        report_client = worker_reports.ReportClient(session, metrics.count_report_error)
        mirrored_api = MirroredApi(api, followers.mirrors, followers.is_current)
        tasks = Tasks(mirrored_api, report_client, reconcile, settings, metrics, clock, leases)
        stack.push_async_callback(tasks.stop)
        judge = Health(pulse, followers.silent, tasks.stuck_seconds, metrics.registry)
        readiness = Readiness(
            [
                rights.complaints,
                leases.complaints,
                startup.complaints,
                lambda: [] if rights.complaints() else [*pulse.complaints(), *followers.complaints()],
            ],
            [leases.remarks],
        )
        metrics.show_readiness(lambda: readiness.is_ready)
        await stack.enter_async_context(health.serve(judge, readiness, settings.health_port))
        await stack.enter_async_context(running(rights.run()))
        await stack.enter_async_context(running(readiness.run()))
        await stack.enter_async_context(running(tasks.ask_for_news()))
        await stack.enter_async_context(running(keep_in_sync(watch_api, settings.watch_namespaces, tasks)))
        yield Operator(api, startup, pulse, leases, followers, tasks, settings)


@asynccontextmanager
async def running(coroutine: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    task = asyncio.create_task(coroutine)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def identity(settings: Settings) -> Holder:
    return Holder(settings.identity or f"{socket.gethostname()}/{os.getpid()}", settings.release)


class Backoffs:
    """Endless retries: after the last one kopf would stop the operator, but what blocks a watch (missing permissions,
    an API server that is away) is not solved by a restart. When it is over, the next retry follows within 5 s."""

    def __iter__(self) -> Iterator[float]:
        return chain((1, 2, 4), repeat(5))


def kopf_settings() -> kopf.OperatorSettings:
    """Returns kopf's settings. kopf never writes to objects; its names are ours in case it ever does."""
    settings = kopf.OperatorSettings()
    settings.posting.enabled = False
    settings.scanning.disabled = True
    settings.persistence.finalizer = f"{names.GROUP}/kopf"
    settings.persistence.diffbase_storage = kopf.AnnotationsDiffBaseStorage(prefix=names.GROUP)
    settings.persistence.progress_storage = kopf.AnnotationsProgressStorage(prefix=names.GROUP)
    settings.networking.request_timeout = 30
    settings.networking.connect_timeout = 10
    settings.networking.error_backoffs = Backoffs()
    settings.watching.server_timeout = health.WATCH_SECONDS
    settings.watching.chunk_size = PAGE
    # Of each object: after it, what kopf keeps of an event goes.
    settings.queueing.idle_timeout = IDLE_SECONDS
    settings.watching.inactivity_timeout = health.INACTIVITY_SECONDS
    return settings


def wire(operator: Operator) -> kopf.OperatorRegistry:
    registry = kopf.OperatorRegistry()
    _wire_process(registry, operator)
    tasks = operator.tasks

    @kopf.on.event(*MODELS, registry=registry)
    async def on_model(event: kopf.RawEvent, **_: Any) -> None:
        if event["type"] == "DELETED":
            tasks.model_gone(event["object"]["metadata"]["uid"])
        else:
            tasks.model_changed(event["object"], is_listed=event["type"] is None)

    return registry


def _wire_process(registry: kopf.OperatorRegistry, operator: Operator) -> None:
    @kopf.on.startup(registry=registry)
    async def wait_for_definition(**_: Any) -> None:
        await client.wait_for_models(operator.api, operator.settings.watch_namespaces, operator.startup.wait_for)
        await operator.followers.listed()
        operator.startup.end()
        operator.pulse.begin()

    @kopf.on.login(registry=registry)
    async def log_in(settings: kopf.OperatorSettings, **_: Any) -> kopf.AiohttpSession:
        return client.kopf_session(operator.api.server, settings, operator.pulse.trace())

    @kopf.on.cleanup(registry=registry)
    async def stop(**_: Any) -> None:
        # Not only at the end of `assemble`: kopf waits for all tasks that were started after it, and cancels them.
        await operator.tasks.stop()
        await operator.leases.release()
