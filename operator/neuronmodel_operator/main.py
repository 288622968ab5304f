"""kopf's wiring and settings, nothing else: what its watches deliver goes to `tasks`."""

import asyncio
import logging
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

import kopf

from neuronmodel_api import names
from neuronmodel_operator import client, health, logs, reports
from neuronmodel_operator.client import Api
from neuronmodel_operator.health import Health, WatchPulse
from neuronmodel_operator.metrics import Metrics
from neuronmodel_operator.reconcile import reconcile
from neuronmodel_operator.settings import Settings
from neuronmodel_operator.tasks import RealClock, Tasks

_log = logging.getLogger(__name__)

CHILDREN: Final = (("apps", "v1", "deployments"), ("batch", "v1", "jobs"), ("", "v1", "services"), ("", "v1", "pods"))
"""Watched by our label alone: group, version, plural."""
CLAIMS: Final = ("", "v1", "persistentvolumeclaims")
MODELS: Final = (names.GROUP, names.VERSION, names.PLURAL)


@dataclass(frozen=True)
class Operator:
    """What kopf's handlers need."""

    api: Api
    pulse: WatchPulse
    tasks: Tasks
    settings: Settings


def main() -> None:
    """The command `neuronmodel-operator`."""
    # The first process of a container ignores SIGTERM until it says otherwise; kopf says so only later.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    settings = Settings.from_environment(os.environ)
    logs.configure(os.environ.get("NEURONMODEL_LOG_FORMAT", "text"))
    asyncio.run(run(settings))


async def run(settings: Settings) -> None:
    """Until SIGTERM or SIGINT."""
    async with assemble(settings) as operator:
        await kopf.operator(
            registry=wire(operator),
            settings=kopf_settings(),
            standalone=True,
            clusterwide=not settings.watch_namespaces,
            namespaces=settings.watch_namespaces,
        )


@asynccontextmanager
async def assemble(settings: Settings) -> AsyncIterator[Operator]:
    """The parts, joined, with /healthz and /metrics served."""
    async with AsyncExitStack() as stack:
        metrics, pulse = Metrics(), WatchPulse()
        api = await stack.enter_async_context(client.connect(metrics.count_call))
        session = await stack.enter_async_context(reports.open_session())
        reporter = reports.Reporter(session, metrics.count_report_error)
        tasks = Tasks(api, reporter, reconcile, settings, metrics, RealClock())
        judge = Health(pulse, tasks.overdue_seconds, metrics.registry)
        await stack.enter_async_context(health.serve(judge, settings.health_port))
        yield Operator(api, pulse, tasks, settings)


def kopf_settings() -> kopf.OperatorSettings:
    """Nothing of kopf's is ever written to an object; its names are ours in case it should be."""
    settings = kopf.OperatorSettings()
    settings.posting.enabled = False
    settings.scanning.disabled = True
    settings.persistence.finalizer = f"{names.GROUP}/kopf"
    settings.persistence.diffbase_storage = kopf.AnnotationsDiffBaseStorage(prefix=names.GROUP)
    settings.persistence.progress_storage = kopf.AnnotationsProgressStorage(prefix=names.GROUP)
    settings.networking.request_timeout = 30
    settings.networking.connect_timeout = 10
    settings.networking.error_backoffs = (1, 2, 4, 8, *(10,) * 8)  # an outage's end is noticed within 10 s
    settings.watching.server_timeout = health.WATCH_SECONDS
    settings.watching.inactivity_timeout = health.INACTIVITY_SECONDS
    for resource in CHILDREN:
        settings.watching.label_selectors[resource] = names.LABEL_UID
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
            tasks.model_changed(event["object"])

    async def on_child(labels: Mapping[str, str], **_: Any) -> None:
        tasks.child_changed(labels)

    for resource in CHILDREN:
        kopf.on.event(*resource, registry=registry, id=f"on_{resource[-1]}")(on_child)

    @kopf.on.event(*CLAIMS, registry=registry)
    async def on_claim(namespace: str | None, name: str, **_: Any) -> None:
        tasks.claim_changed(namespace or "", name)

    return registry


def _wire_process(registry: kopf.OperatorRegistry, operator: Operator) -> None:
    @kopf.on.startup(registry=registry)
    async def wait_for_definition(**_: Any) -> None:
        await client.wait_for_models(operator.api, operator.settings.watch_namespaces)

    @kopf.on.login(registry=registry)
    async def log_in(settings: kopf.OperatorSettings, **_: Any) -> kopf.AiohttpSession:
        return client.kopf_session(operator.api.server, settings, operator.pulse.trace())

    @kopf.on.cleanup(registry=registry)
    async def stop(**_: Any) -> None:
        await operator.tasks.stop()
