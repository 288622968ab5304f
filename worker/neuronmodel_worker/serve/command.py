"""`neuronmodel serve`: loads what was prepared, then answers until it is told to stop.

The serving port opens when the model is ready and not before: a connection is refused rather than told to wait, and
the kubelet asks the admin port. After SIGTERM readiness is taken back at once, while the port stays open a moment for
requests that were sent before the endpoint's removal had reached every node; then it closes, and the answers under way
may take `shutdown_seconds`.
"""

import asyncio
import logging
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from aiohttp import web

from neuronmodel_api.config import WorkerConfig
from neuronmodel_worker.engines import LoadedModel, Sampling
from neuronmodel_worker.lifecycle import Run
from neuronmodel_worker.serve.admin import PortTaken, admin_server
from neuronmodel_worker.serve.api import Api
from neuronmodel_worker.serve.background import Background
from neuronmodel_worker.serve.generation import Generation
from neuronmodel_worker.serve.keys import ApiKey
from neuronmodel_worker.serve.loading import Loading, open_tier
from neuronmodel_worker.serve.metrics import Metrics
from neuronmodel_worker.serve.text import Text

log = logging.getLogger(__name__)

# How long kube-proxy and clients may need to learn that this endpoint is going.
LINGER_SECONDS = 2.0
POLL_SECONDS = 0.05


def serve(job: Run) -> None:
    metrics = Metrics(job.clock)
    with admin_server(job.clock, metrics, job.config.admin_port):
        with job.clock.phase("LibrariesImported"):
            job.use_scratch()
            key = ApiKey(Path(job.config.api_key_file)) if job.config.api_key_file else None
        tier, background = open_tier(job), Background()
        try:
            loading = Loading(job, background, tier)
            model, text = loading.model(), loading.text()
            with job.clock.phase("WarmedUp"):
                model.warm_up()
            asyncio.run(_answer(job, model, text, metrics, key, background))
        finally:
            background.stop()
            if tier:
                tier.close()


def default_sampling(neuron_config: dict[str, Any]) -> Sampling:
    """What a request that says nothing gets: what the graph would sample on the device with (absent fields by NxD
    Inference's OnDeviceSamplingConfig), else OpenAI's defaults."""
    device = neuron_config.get("on_device_sampling_config")
    if not isinstance(device, dict):
        return Sampling()
    if not device.get("do_sample"):
        return Sampling(temperature=0.0)
    top_k = int(device.get("top_k") or 1)
    return Sampling(
        temperature=float(device.get("temperature", 1.0)),
        top_p=float(device.get("top_p", 1.0)),
        top_k=top_k if top_k > 0 else int(device.get("global_topk") or 256),
    )


async def _answer(
    job: Run, model: LoadedModel, text: Text, metrics: Metrics, key: ApiKey | None, background: Background
) -> None:
    config = job.config
    generation = Generation(model, text, metrics)
    api = Api(generation, config.served_name or config.name, default_sampling(config.neuron_config), metrics, key)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    runner = web.AppRunner(api.application(), access_log=None, handler_cancellation=True, shutdown_timeout=1)
    await runner.setup()
    site = await _open_port(runner, config)
    job.clock.ready()
    background.begin(lambda: generation.busy)
    log.info("ready: %s answers on port %d", api.served_name, config.serving_port)
    await stop.wait()
    job.clock.draining()
    background.ask_to_stop()
    api.draining = True
    await _drain(api, site, config.shutdown_seconds)
    await runner.cleanup()
    generation.close()


async def _open_port(runner: web.AppRunner, config: WorkerConfig) -> web.TCPSite:
    site = web.TCPSite(runner, "0.0.0.0", config.serving_port)  # noqa: S104 - a Service sends traffic to the pod's IP
    try:
        await site.start()
    except OSError as error:
        raise PortTaken(config.serving_port, error) from error
    return site


async def _drain(api: Api, site: web.TCPSite, seconds: float) -> None:
    """The port stays open for LINGER_SECONDS, then closes; what is being answered has `seconds` in all."""
    told = time.monotonic()
    await _until(lambda: False, told + min(LINGER_SECONDS, seconds))
    await site.stop()
    if not await _until(lambda: api.in_flight == 0, told + seconds):
        log.warning("%d answers were not finished within %d s and are cut off", api.in_flight, seconds)


async def _until(holds: Callable[[], bool], deadline: float) -> bool:
    while not holds():
        if time.monotonic() >= deadline:
            return False
        await asyncio.sleep(POLL_SECONDS)
    return True
