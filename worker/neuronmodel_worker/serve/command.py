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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiohttp import web

from neuronmodel_api.config import Strategy, WorkerConfig
from neuronmodel_worker.artifacts import Wanted, wanted_artifacts
from neuronmodel_worker.engines import CompiledModel, Engine, LoadedModel, Sampling, open_engine
from neuronmodel_worker.failures import ArtifactDamaged, ArtifactsOutdated, SourceChanged
from neuronmodel_worker.lifecycle import Run
from neuronmodel_worker.plan import Plan
from neuronmodel_worker.prepare import disk_rates, open_source
from neuronmodel_worker.serve.admin import PortTaken, admin_server
from neuronmodel_worker.serve.api import Api
from neuronmodel_worker.serve.generation import Generation
from neuronmodel_worker.serve.keys import ApiKey
from neuronmodel_worker.serve.metrics import Metrics
from neuronmodel_worker.serve.text import Text, load_text
from neuronmodel_worker.store import COMPILED, SHARDS, Kind, SealedSet, Store
from neuronmodel_worker.stream import WEIGHTS, RankTensor, TensorSink, Transferred, read_rank_files, run

log = logging.getLogger(__name__)

# How long kube-proxy and clients may need to learn that this endpoint is going.
LINGER_SECONDS = 2.0
POLL_SECONDS = 0.05

Ranks = list[dict[str, RankTensor]]


def serve(job: Run) -> None:
    metrics = Metrics(job.clock)
    with admin_server(job.clock, metrics, job.config.admin_port):
        with job.clock.phase("LibrariesImported"):
            job.use_scratch()
            key = ApiKey(Path(job.config.api_key_file)) if job.config.api_key_file else None
        loading = Loading(job)
        model, text = loading.model(), loading.text()
        with job.clock.phase("WarmedUp"):
            model.warm_up()
        asyncio.run(_answer(job, model, text, metrics, key))


@dataclass
class Loading:
    """From the source and the sealed sets to a model that answers."""

    job: Run

    def model(self) -> LoadedModel:
        with self.job.clock.phase("SourceOpened"):
            plan = open_source(self.job)
            check_fingerprint(self.job, plan)
        with self.job.clock.phase("EngineImported"):
            engine = open_engine(self.job.config.engine)
            engine.import_framework()
        with self.job.clock.phase("CompiledLoaded"):
            self._store = Store(self.job.artifacts, read_only=True)
            compiled_key, shards_key = self._keys(plan, engine)
            compiled = engine.open(self._find(COMPILED, compiled_key).directory)
        return self._hand_over(compiled, self._ranks(plan, shards_key))

    def _keys(self, plan: Plan, engine: Engine) -> tuple[str, str | None]:
        """What prepare would return. Raises ArtifactsOutdated when that is not what it did return to the operator."""
        wanted = wanted_artifacts(self.job.config, plan, engine)
        if self.job.config.compiled_key:
            check_prepared(self.job, wanted)
        return wanted.compiled_key, wanted.shards_key

    def _find(self, kind: Kind, key: str) -> SealedSet:
        found = self._store.find(kind, key)
        if found is None:
            raise ArtifactDamaged(self._store.path(kind, key), "it is not there")
        return found

    def _ranks(self, plan: Plan, shards_key: str | None) -> Ranks:
        if self.job.config.strategy is Strategy.SHARD_ON_LOAD:
            return self._slice(plan)
        if shards_key is None:
            raise ArtifactDamaged(self._store.root, "no key of shards was given for ShardOnCompile")
        return self._read(plan, self._find(SHARDS, shards_key))

    def _slice(self, plan: Plan) -> Ranks:
        with self.job.clock.phase("Sharded", plan.source_bytes) as phase:

            def progress(transferred: Transferred) -> None:
                phase.reach(transferred.bytes_read)

            sink = TensorSink()
            self.job.clock.measured(disk_rates(run(plan, sink, progress)))
        return sink.tensors

    def _read(self, plan: Plan, shards: SealedSet) -> Ranks:
        with self.job.clock.phase("Read", shards.nbytes) as phase:

            def progress(transferred: Transferred) -> None:
                phase.reach(transferred.bytes_read)

            return read_rank_files(shards.directory / WEIGHTS, plan.ranks, progress, sealed=shards.files(under=WEIGHTS))

    def _hand_over(self, compiled: CompiledModel, ranks: Ranks) -> LoadedModel:
        with self.job.clock.phase("DeviceLoaded"):
            return compiled.load(ranks)

    def text(self) -> Text:
        with self.job.clock.phase("TokenizerLoaded"):
            return load_text(self.job.source, self.job.config.generation_config)


def check_fingerprint(job: Run, plan: Plan) -> None:
    expected, found = job.config.source_fingerprint, plan.checkpoint.fingerprint
    if expected and expected != found:
        raise SourceChanged(job.source, f"its fingerprint is {found}, and {expected} was prepared")


def check_prepared(job: Run, wanted: Wanted) -> None:
    prepared = job.config
    if prepared.compiled_key != wanted.compiled_key:
        raise ArtifactsOutdated("compiled model", prepared.compiled_key, wanted.compiled_key)
    if prepared.shards_key != wanted.shards_key:
        raise ArtifactsOutdated("set of shards", prepared.shards_key, wanted.shards_key)


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


async def _answer(job: Run, model: LoadedModel, text: Text, metrics: Metrics, key: ApiKey | None) -> None:
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
    log.info("ready: %s answers on port %d", api.served_name, config.serving_port)
    await stop.wait()
    job.clock.draining()
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
