"""A start with vLLM as the server.

It opens what was prepared, runs vLLM on it, and forwards requests until it is terminated or vLLM ends.
"""

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
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from aiohttp import ClientError, ClientSession, ClientTimeout

from neuronmodel_api import names
from neuronmodel_api.config import Engine, Seal
from neuronmodel_api.phases import StartPhase
from neuronmodel_api.reasons import Reason
from neuronmodel_api.report import State
from neuronmodel_worker.engines import DevicesInUse
from neuronmodel_worker.engines.installed_server import required_server
from neuronmodel_worker.engines.nxdi.neuron_failures import last_lines
from neuronmodel_worker.failures import FlagsRefused, WorkerFailure
from neuronmodel_worker.report.metrics import WorkerMetrics
from neuronmodel_worker.run.context import Run
from neuronmodel_worker.serve.api_keys import ApiKey
from neuronmodel_worker.serve.background import Background
from neuronmodel_worker.serve.devices import DeviceBackoff
from neuronmodel_worker.serve.listener import open_listener, stop_event
from neuronmodel_worker.serve.middleware import Middleware
from neuronmodel_worker.serve.prepared import PreparedModel
from neuronmodel_worker.serve.revision_watch import watching_revision
from neuronmodel_worker.serve.vllm.arguments import HOST
from neuronmodel_worker.serve.vllm.cpu.setup import CpuSetup
from neuronmodel_worker.serve.vllm.environment import PLUGIN_GROUP, plugin_is_installed, vllm_environment
from neuronmodel_worker.serve.vllm.instruction import Instruction
from neuronmodel_worker.serve.vllm.neuron.setup import NeuronSetup
from neuronmodel_worker.serve.vllm.process import VllmProcess, running, vllm_program
from neuronmodel_worker.serve.vllm.proxy import Proxy, open_session
from neuronmodel_worker.serve.vllm.relay import RelayReader
from neuronmodel_worker.serve.vllm.setup import ServerNotHooked, VllmSetup
from neuronmodel_worker.serve.vllm.shared_memory import remove_left_behind

log = logging.getLogger(__name__)

POLL_SECONDS: Final = 0.02
HEALTH_SECONDS: Final = 0.25
"""The interval between health checks."""
METRICS_SECONDS: Final = 5.0
LINE_CHARACTERS: Final = 500
LOWEST_PORT: Final = 10_000
EPHEMERAL_PORT_RANGE: Final = Path("/proc/sys/net/ipv4/ip_local_port_range")


class ServerEnded(WorkerFailure):
    """vLLM ended, and its output is no failure that is known by name."""

    reason = Reason.SERVER_ENDED


def serve_by_vllm(job: Run, metrics: WorkerMetrics, key: ApiKey | None) -> None:
    """Serves the model with vLLM until the worker is terminated. Raises a WorkerFailure."""
    if names.ENV_POD_UID in os.environ:
        remove_left_behind(Path(names.SHARED_MEMORY_MOUNT))
    with tempfile.TemporaryDirectory(prefix="vllm-") as directory:
        server = VllmServer(job, Path(directory))
        server.prepare()
        metrics.server_metrics = server.metrics
        server.run(Middleware(metrics, key))


def setup_of(job: Run) -> VllmSetup:
    return NeuronSetup(job) if job.config.engine is Engine.NEURON else CpuSetup(job)


@dataclass
class VllmServer:
    """One start of vLLM. `directory` belongs to this start; the worker and the plugin exchange files in it."""

    job: Run
    directory: Path
    port: int = 0
    key: str = field(default_factory=secrets.token_hex)
    """The API key of vLLM's own port: other processes in the pod have to use the worker's."""

    def __post_init__(self) -> None:
        self.port = self.port or free_port({self.job.config.serving_port, self.job.config.admin_port})
        self._setup = setup_of(self.job)

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"

    def prepare(self) -> None:
        """Opens the source and the sets.

        Raises what `neuronmodel serve` raises for them, and a BadInput for what vLLM cannot serve.
        """
        job, setup = self.job, self._setup
        if job.config.seal is Seal.BEHIND:
            raise FlagsRefused("vLLM serves from shards that are sealed before. Remove seal, or server: VLLM.")
        required_server(job.config)
        program = vllm_program()
        folder = job.weights.folder()
        setup.check(folder)
        if not plugin_is_installed():
            raise ServerNotHooked(
                f"The worker is not installed as a package in this image: its entry point {PLUGIN_GROUP} is missing, "
                "by which vLLM finds it. Install it with pip."
            )
        launch = setup.launch(PreparedModel(job, Background()), folder, self.port)
        self._command = [program, *launch.arguments]
        self._environment = launch.environment

    # Starting.

    def run(self, middleware: Middleware) -> None:
        """Serves until it is terminated. If the devices are in use, vLLM is started again."""
        backoff, since = DeviceBackoff(self.job.config.start_timeout_seconds), self.job.clock.boundary
        for attempt in itertools.count():
            try:
                self._run(middleware, attempt)
            except DevicesInUse as in_use:
                if self.job.clock.state is not State.RUNNING:
                    raise
                with self.job.clock.phase(StartPhase.DEVICES_AWAITED):
                    backoff.wait(in_use)
                self.job.clock.fold(since, StartPhase.DEVICES_AWAITED)
            else:
                return

    def _run(self, middleware: Middleware, attempt: int) -> None:
        relay = self.directory / f"relay-{attempt}.jsonl"
        instruction = self.directory / f"instruction-{attempt}.json"
        Instruction(config=self.job.config, relay=relay).write(instruction)
        environment = vllm_environment(
            self._environment,
            engine=self.job.config.engine,
            instruction=instruction,
            key=self.key,
            start_timeout_seconds=self.job.config.start_timeout_seconds,
        )
        with running(self._command, environment) as child:
            self._await_ready(child, RelayReader(relay, self.job.clock))
            asyncio.run(self._answer(middleware, child))

    def _await_ready(self, child: VllmProcess, relay: RelayReader) -> None:
        """Waits until vLLM is healthy. Raises DevicesInUse, and any other failure that ended vLLM."""
        relay.begin(StartPhase.SERVER_IMPORTED)
        try:
            next_question = 0.0
            while True:
                relay.read()
                if child.exit_code is not None:
                    relay.read()
                    raise exit_failure(child, self._setup, relay)
                if time.monotonic() >= next_question:
                    if self._is_healthy():
                        break
                    next_question = time.monotonic() + HEALTH_SECONDS
                time.sleep(POLL_SECONDS)
            relay.read()
        finally:
            relay.end()
        if StartPhase.DEVICE_LOADED not in relay.begun:
            raise ServerNotHooked(
                "vLLM answers, and loaded its weights without the worker: which ones is not known. "
                f"{self._setup.not_hooked}"
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

    async def _answer(self, middleware: Middleware, child: VllmProcess) -> None:
        config, clock = self.job.config, self.job.clock
        stop = stop_event()
        async with open_session() as session:
            application = Proxy(middleware, session, self.url, self.key).application()
            async with open_listener(middleware, application, config) as listener:
                clock.ready()
                log.info("ready: vLLM answers on port %d", config.serving_port)
                with watching_revision(config.network_source, clock):
                    await _wait_for_stop_or_exit(stop, child)
                if child.exit_code is not None:
                    raise exit_failure(child, self._setup)
                clock.draining()
                await listener.drain(config.shutdown_seconds)

    async def metrics(self) -> bytes:
        """Returns vLLM's own metrics; nothing while it does not answer."""
        with suppress(ClientError, TimeoutError):
            async with (
                ClientSession(timeout=ClientTimeout(total=METRICS_SECONDS)) as session,
                session.get(f"{self.url}/metrics") as answer,
            ):
                return await answer.read() if answer.ok else b""
        return b""


def exit_failure(child: VllmProcess, setup: VllmSetup, relay: RelayReader | None = None) -> WorkerFailure:
    """Returns why vLLM ended: what the plugin relayed, otherwise what its last lines say."""
    if relay and relay.failure:
        return DevicesInUse(str(relay.failure)) if relay.failure.reason == DevicesInUse.reason else relay.failure
    raised = relay.error if relay else ""
    output = f"{child.tail()}\n{raised}"
    return setup.failure(output, raised=bool(raised)) or ServerEnded(
        f"vLLM ended {_describe_exit(child.exit_code)}. Its last lines: {last_lines(_shortened(output))}"
    )


def _shortened(text: str) -> str:
    """Cuts long lines in their middle: vLLM's refusal of a model says so, and goes on with all models that it knows."""
    half = LINE_CHARACTERS // 2
    lines = text.splitlines()
    return "\n".join(line if len(line) <= LINE_CHARACTERS else f"{line[:half]} … {line[-half:]}" for line in lines)


def _describe_exit(exit_code: int | None) -> str:
    if exit_code is None:
        return "unseen"
    return f"by signal {-exit_code}" if exit_code < 0 else f"with exit code {exit_code}"


async def _wait_for_stop_or_exit(stop: asyncio.Event, child: VllmProcess) -> None:
    while not stop.is_set() and child.exit_code is None:
        with suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), POLL_SECONDS * 5)


def free_port(exclude: Collection[int]) -> int:
    """Returns a free port outside the range from which the kernel assigns ports to connections.

    vLLM opens it many seconds later, and a connection opened meanwhile could have it; even a health check could be
    assigned it, and be connected to itself.
    """
    lowest_ephemeral = int(EPHEMERAL_PORT_RANGE.read_text().split()[0])
    ports = [port for port in range(LOWEST_PORT, lowest_ephemeral) if port not in exclude]
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
