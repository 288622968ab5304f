"""`neuronmodel serve`: loads what was prepared, then answers requests until it is terminated."""

import asyncio
import logging
from pathlib import Path
from typing import Any

from neuronmodel_api.config import Server
from neuronmodel_api.phases import StartPhase
from neuronmodel_worker.engines import LoadedModel, Sampling
from neuronmodel_worker.report.admin import admin_server
from neuronmodel_worker.report.metrics import WorkerMetrics
from neuronmodel_worker.run.context import Run
from neuronmodel_worker.serve.api import OpenAIApi
from neuronmodel_worker.serve.api_keys import ApiKey
from neuronmodel_worker.serve.background import Background
from neuronmodel_worker.serve.generation import Generation
from neuronmodel_worker.serve.listener import open_listener, stop_event
from neuronmodel_worker.serve.loading import ModelLoader, open_tier
from neuronmodel_worker.serve.middleware import Middleware
from neuronmodel_worker.serve.revision_watch import watching_revision
from neuronmodel_worker.text import Text

log = logging.getLogger(__name__)


def serve(job: Run) -> None:
    """Serves the model with the configured server. Raises a WorkerFailure."""
    metrics = WorkerMetrics(job.clock, job.volumes)
    with admin_server(job.clock, metrics, job.config.admin_port):
        with job.clock.phase(StartPhase.LIBRARIES_IMPORTED):
            job.use_scratch()
            key = ApiKey(Path(job.config.api_key_file)) if job.config.api_key_file else None
        if job.config.server is Server.VLLM:
            # Not at the top: the worker's own server needs none of it.
            from neuronmodel_worker.serve.vllm.serve import serve_by_vllm

            serve_by_vllm(job, metrics, key)
            return
        tier, background = open_tier(job), Background()
        try:
            loading = ModelLoader(job, background, tier)
            model, text = loading.model(), loading.text()
            with job.clock.phase(StartPhase.WARMED_UP):
                model.warm_up()
            asyncio.run(_answer(job, model, text, metrics, key, background))
        finally:
            background.stop()
            if tier:
                tier.close()


def default_sampling(neuron_config: dict[str, Any]) -> Sampling:
    """Returns the sampling parameters of a request that names none.

    They are those that the compiled graph would sample with on the device (absent fields as in NxD Inference's
    OnDeviceSamplingConfig), otherwise OpenAI's defaults.
    """
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
    job: Run, model: LoadedModel, text: Text, metrics: WorkerMetrics, key: ApiKey | None, background: Background
) -> None:
    config = job.config
    served_name = config.served_name or config.name
    metrics.show_under_vllm_names(served_name)
    generation = Generation(model, text, metrics)
    middleware = Middleware(metrics, key)
    api = OpenAIApi(generation, served_name, default_sampling(config.neuron_config), middleware)
    stop = stop_event()
    async with open_listener(middleware, api.application(), config) as listener:
        job.clock.ready()
        background.begin(lambda: generation.busy)
        log.info("ready: %s answers on port %d", api.served_name, config.serving_port)
        with watching_revision(config.network_source, job.clock):
            await stop.wait()
        job.clock.draining()
        background.request_stop()
        await listener.drain(config.shutdown_seconds)
    generation.close()
