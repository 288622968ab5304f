"""A start with vLLM as the server: opens what was prepared, runs vLLM on it, stands in front of it until it is told to
stop or vLLM ends."""

import asyncio
import http.client
import itertools
import logging
import os
import random
import secrets
import socket
import tempfile
import time
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from aiohttp import ClientError, ClientSession, ClientTimeout

from neuronmodel_api.config import Engine, Seal
from neuronmodel_api.phases import StartPhase
from neuronmodel_api.reasons import Reason
from neuronmodel_api.report import State
from neuronmodel_worker.engines import DevicesInUse
from neuronmodel_worker.engines.neuron import NeuronEngine
from neuronmodel_worker.engines.nxdi.compiled import read_compiled
from neuronmodel_worker.engines.nxdi.load_directory import checkpoint_of, make_load_directory
from neuronmodel_worker.engines.nxdi.neuron_failures import NeuronRuntimeFailed, classified, last_lines
from neuronmodel_worker.engines.nxdi.settings import Purpose
from neuronmodel_worker.failures import BadInput, FlagsRefused, WorkerFailure
from neuronmodel_worker.report.metrics import WorkerMetrics
from neuronmodel_worker.run.context import Run
from neuronmodel_worker.serve.api_keys import ApiKey
from neuronmodel_worker.serve.background import Background
from neuronmodel_worker.serve.devices import DeviceBackoff, find_devices
from neuronmodel_worker.serve.listener import open_port, stop_event
from neuronmodel_worker.serve.middleware import Front
from neuronmodel_worker.serve.prepared import PreparedModel
from neuronmodel_worker.serve.vllm.arguments import HOST, vllm_arguments
from neuronmodel_worker.serve.vllm.environment import PLUGIN_GROUP, plugin_is_installed, vllm_environment
from neuronmodel_worker.serve.vllm.instruction import Instruction
from neuronmodel_worker.serve.vllm.process import VllmProcess, running, vllm_program
from neuronmodel_worker.serve.vllm.proxy import Proxy, open_session
from neuronmodel_worker.serve.vllm.relay import RelayReader

log = logging.getLogger(__name__)

POLL_SECONDS: Final = 0.02
HEALTH_SECONDS: Final = 0.25
"""Between questions whether it answers."""
METRICS_SECONDS: Final = 5.0
LOWEST_PORT: Final = 10_000
RANGE_OF_KERNEL: Final = Path("/proc/sys/net/ipv4/ip_local_port_range")


class ServerEnded(WorkerFailure):
    """vLLM ended, and what it said is no failure that is known by name."""

    reason = Reason.SERVER_ENDED


class ServerNotHooked(BadInput):
    """vLLM does not load the weights that were prepared."""

    reason = Reason.SERVER_NOT_HOOKED


def serve_by_vllm(job: Run, metrics: WorkerMetrics, key: ApiKey | None) -> None:
    with tempfile.TemporaryDirectory(prefix="vllm-") as directory:
        server = VllmServer(job, Path(directory))
        server.prepare()
        metrics.beside = server.metrics
        server.run(Front(metrics, key))


@dataclass
class VllmServer:
    """`directory` is this start's own, for what passes between the worker and the plugin."""

    job: Run
    directory: Path
    port: int = 0
    key: str = field(default_factory=secrets.token_hex)
    """Of vLLM's own port: others in the pod are to come by ours."""

    def __post_init__(self) -> None:
        self.port = self.port or free_port({self.job.config.serving_port, self.job.config.admin_port})

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"

    def prepare(self) -> None:
        """Raises what `neuronmodel serve` raises for sources and sets, and a BadInput for what vLLM cannot serve."""
        job = self.job
        if job.config.engine is not Engine.NEURON or job.config.seal is Seal.BEHIND:
            raise FlagsRefused("vLLM serves engine: Neuron, from shards that are sealed before. Remove server: VLLM.")
        program = vllm_program()
        vllm_arguments(job.config, job.source, self.port)  # what it refuses is refused before anything is opened
        if not plugin_is_installed():
            raise ServerNotHooked(
                f"The worker is not installed as a package in this image: its entry point {PLUGIN_GROUP} is missing, "
                "by which vLLM finds it. Install it with pip."
            )
        engine = NeuronEngine(job.config)
        prepared = PreparedModel(job, Background())
        with job.clock.phase(StartPhase.SOURCE_OPENED):
            check_type(prepared.open().checkpoint.config, job.config.model_type)
        find_devices(job, engine)
        with job.clock.phase(StartPhase.COMPILED_LOADED):
            sets = prepared.find(engine)
            self._view = make_load_directory(
                Path(job.config.scratch_path),
                read_compiled(sets.compiled.directory),
                job.source,
                Purpose.READ if sets.shards else Purpose.LOAD,
                sets.shards_directory,
                job.config.neuron_config,
            )
        source = checkpoint_of(self._view, job.source)
        self._command = [program, *vllm_arguments(job.config, source, self.port)]
        self._environment = {**engine.runtime_environment(), **os.environ}

    # A start.

    def run(self, front: Front) -> None:
        """Until it was told to stop. Where somebody holds the devices, vLLM is started again."""
        backoff, since = DeviceBackoff(self.job.config.start_timeout_seconds), self.job.clock.boundary
        for attempt in itertools.count():
            try:
                self._run(front, attempt)
            except DevicesInUse as held:
                if self.job.clock.state is not State.RUNNING:
                    raise
                with self.job.clock.phase(StartPhase.DEVICES_AWAITED):
                    backoff.wait(held)
                self.job.clock.fold(since, StartPhase.DEVICES_AWAITED)
            else:
                return

    def _run(self, front: Front, attempt: int) -> None:
        relay = self.directory / f"relay-{attempt}.jsonl"
        instruction = self.directory / f"instruction-{attempt}.json"
        Instruction(config=self.job.config, relay=relay).write(instruction)
        environment = vllm_environment(
            self._environment,
            view=self._view,
            instruction=instruction,
            key=self.key,
            start_timeout_seconds=self.job.config.start_timeout_seconds,
        )
        with running(self._command, environment) as child:
            self._await_ready(child, RelayReader(relay, self.job.clock))
            asyncio.run(self._answer(front, child))

    def _await_ready(self, child: VllmProcess, told: RelayReader) -> None:
        """Raises DevicesInUse, and whatever else ended vLLM."""
        told.begin(StartPhase.SERVER_IMPORTED)
        try:
            next_question = 0.0
            while True:
                told.read()
                if child.exit_code is not None:
                    told.read()
                    raise ended(child, told)
                if time.monotonic() >= next_question:
                    if self._is_healthy():
                        break
                    next_question = time.monotonic() + HEALTH_SECONDS
                time.sleep(POLL_SECONDS)
            told.read()
        finally:
            told.end()
        if StartPhase.DEVICE_LOADED not in told.begun:
            raise ServerNotHooked(
                "vLLM answers, and loaded its weights without the worker: which ones is not known. Check that its "
                "Neuron plugin is one of 0.2 to 0.5, which load by NxD Inference."
            )

    def _is_healthy(self) -> bool:
        connection = http.client.HTTPConnection(HOST, self.port, timeout=METRICS_SECONDS)
        try:
            connection.request("GET", "/health")
            return connection.getresponse().status == http.client.OK
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    # Answering.

    async def _answer(self, front: Front, child: VllmProcess) -> None:
        config, clock = self.job.config, self.job.clock
        stop = stop_event()
        async with open_session() as session:
            application = Proxy(front, session, self.url, self.key).application()
            async with open_port(front, application, config) as port:
                clock.ready()
                log.info("ready: vLLM answers on port %d", config.serving_port)
                await _first_of(stop, child)
                if child.exit_code is not None:
                    raise ended(child)
                clock.draining()
                await port.drain(config.shutdown_seconds)

    async def metrics(self) -> bytes:
        """vLLM's own; nothing while it does not answer."""
        with suppress(ClientError, TimeoutError):
            async with (
                ClientSession(timeout=ClientTimeout(total=METRICS_SECONDS)) as session,
                session.get(f"{self.url}/metrics") as answer,
            ):
                return await answer.read() if answer.ok else b""
        return b""


def check_type(config: Mapping[str, Any], model_type: str | None) -> None:
    """Raises FlagsRefused: vLLM takes NxD Inference's class from config.json, and knows of no other type."""
    if model_type not in (None, config.get("model_type")):
        raise FlagsRefused(
            f"spec.model.type is {model_type}, and vLLM takes the checkpoint for what config.json says: "
            f"{config.get('model_type')}. Remove spec.model.type, or set spec.serving.server: OpenAI."
        )


def ended(child: VllmProcess, told: RelayReader | None = None) -> WorkerFailure:
    """Why: what the plugin told, else what stands in its last lines."""
    if told and told.failure:
        return DevicesInUse(str(told.failure)) if told.failure.reason == DevicesInUse.reason else told.failure
    said = f"{child.tail()}\n{told.error if told else ''}"
    failure = classified(said)
    if not isinstance(failure, NeuronRuntimeFailed) or (told and told.error):
        return failure
    return ServerEnded(f"vLLM ended {_how(child.exit_code)}. Its last lines: {last_lines(said)}")


def _how(exit_code: int | None) -> str:
    if exit_code is None:
        return "unseen"
    return f"by signal {-exit_code}" if exit_code < 0 else f"with exit code {exit_code}"


async def _first_of(stop: asyncio.Event, child: VllmProcess) -> None:
    while not stop.is_set() and child.exit_code is None:
        with suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), POLL_SECONDS * 5)


def free_port(besides: Collection[int]) -> int:
    """None of those that the kernel gives to connections: vLLM takes it many seconds later, and one that was opened
    meanwhile would have it; even a question whether it answers yet may be given it, and be connected to itself."""
    lowest_of_kernel = int(RANGE_OF_KERNEL.read_text().split()[0])
    ports = [port for port in range(LOWEST_PORT, lowest_of_kernel) if port not in besides]
    random.shuffle(ports)
    return next((port for port in ports if _is_free(port)), 0) or _free_port_of_kernel()


def _is_free(port: int) -> bool:
    with socket.socket() as tried, suppress(OSError):
        tried.bind((HOST, port))
        return True
    return False


def _free_port_of_kernel() -> int:
    with socket.socket() as taken:
        taken.bind((HOST, 0))
        port: int = taken.getsockname()[1]
        return port
