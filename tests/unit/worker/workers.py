"""Runs the worker as its users do, as a process of its own, and asks it over its ports."""

import io
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2 as httpx

from neuronmodel_api import names
from neuronmodel_api.report import Report, Stage, parse_report
from neuronmodel_worker.cli import pod_command
from neuronmodel_worker.report.clock import FirstLine
from neuronmodel_worker.run.runner import run_command
from neuronmodel_worker.run.signals import SIGNALS
from tests.forked import ForkedProcess
from tests.ports import free_port
from tests.unit.worker.forked import forked_worker
from tests.waiting import PATIENCE_SECONDS, until

AS_MODULE = "import runpy; runpy.run_module('neuronmodel_worker', run_name='__main__', alter_sys=True)"


@dataclass
class Place:
    """A NeuronModel's world on this host: a source, an artifacts volume, a scratch volume, a configuration."""

    root: Path
    source: Path
    settings: dict[str, Any] = field(default_factory=dict)
    forks: bool = True
    """Whether workers with the CPU engine begin with everything imported."""

    @property
    def artifacts(self) -> Path:
        return self.root / "artifacts"

    def config(self, **changes: Any) -> dict[str, Any]:
        return {
            "namespace": "team", "name": "small", "uid": "uid-1", "specHash": "hash-1", "engine": "CPU",
            "servedName": "small", "sourcePath": str(self.source), "artifactsPath": str(self.artifacts),
            "scratchPath": str(self.root / "scratch"), "servingPort": free_port(), "adminPort": free_port(),
            "neuronConfig": {"tp_degree": 3, "torch_dtype": "float32", "seq_len": 128},
            **self.settings, **changes,
        }  # fmt: skip

    def start(self, command: str, before: str = "", **changes: Any) -> "Worker":
        """`before`: what is run in the process first."""
        config = self.config(**changes)
        log = self.root / f"termination-{time.monotonic_ns()}"
        environment = {**os.environ, names.ENV_CONFIG: json.dumps(config), names.ENV_POD_UID: "pod-1"}
        if self.forks and config["engine"] == "CPU" and not before:
            return Worker(forked_worker(command, environment, log, log.with_suffix(".stderr")), config, log)
        program = ["-c", f"{before}\n{AS_MODULE}"] if before else ["-m", "neuronmodel_worker"]
        arguments = [sys.executable, *program, command, "--termination-log", str(log)]
        process = subprocess.Popen(arguments, env=environment, stderr=subprocess.PIPE, text=True)
        return Worker(process, config, log)

    def run(self, command: str, **changes: Any) -> "Ended":
        """In this process, which has everything imported already: ten times as fast."""
        log, stderr = self.root / f"termination-{time.monotonic_ns()}", io.StringIO()
        environment = {names.ENV_CONFIG: json.dumps(self.config(**changes)), names.ENV_POD_UID: "pod-1"}
        stage = Stage[command.upper()]
        with as_it_was(), redirect_stderr(stderr):
            code = run_command(stage, lambda: pod_command(command), None, log, FirstLine.now(), environment)
        return Ended(code, stderr.getvalue(), parse_report(log.read_bytes()))

    def prepare(self, **changes: Any) -> Report:
        ended = self.run("prepare", **changes)
        assert ended.code == 0, ended.stderr
        return ended.report

    @contextmanager
    def serving(self, before: str = "", **changes: Any) -> Iterator["Worker"]:
        """A worker that is ready, with what prepare returned."""
        result = self.prepare(**changes).result
        assert result is not None
        with self.started("serve", before=before, **{**returned(result.to_json()), **changes}) as worker:
            worker.until_ready()
            yield worker

    @contextmanager
    def started(self, command: str, **changes: Any) -> Iterator["Worker"]:
        worker = self.start(command, **changes)
        try:
            yield worker
        finally:
            if worker.process.poll() is None:
                worker.process.kill()
                worker.process.communicate()


@contextmanager
def as_it_was() -> Iterator[None]:
    """Puts back what a worker changes in its process: signals and the place of temporary files."""
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    environment, directory = dict(os.environ), tempfile.tempdir
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        os.environ.clear()
        os.environ.update(environment)
        tempfile.tempdir = directory


def returned(result: dict[str, Any]) -> dict[str, Any]:
    """What the operator puts into a serving worker's configuration."""
    return {name: result.get(name) for name in ("compiledKey", "shardsKey", "sourceFingerprint", "sourceContent")}


@dataclass(frozen=True)
class Ended:
    code: int
    stderr: str
    report: Report


@dataclass
class Worker:
    process: "subprocess.Popen[str] | ForkedProcess"
    config: dict[str, Any]
    log: Path
    client: httpx.Client = field(
        default_factory=lambda: httpx.Client(timeout=PATIENCE_SECONDS, headers={"Connection": "close"})
    )
    """One for all questions: to make one takes longer than to ask."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.config['servingPort']}/v1"

    def admin(self, path: str) -> httpx.Response:
        return self.client.get(f"http://127.0.0.1:{self.config['adminPort']}{path}")

    def status(self) -> Report:
        return parse_report(self.admin("/status").content)

    def until(self, holds: Any) -> None:
        """Waits until `holds()`; connections that are refused count as not yet."""

        def got_there() -> bool:
            assert self.process.poll() is None, self.process.communicate()[1]
            try:
                return bool(holds())
            except httpx.TransportError:
                return False

        until(got_there, "the worker to get there", poll=0.02)

    def until_ready(self) -> None:
        self.until(lambda: self.admin("/readyz").status_code == 200)

    def wait(self) -> Ended:
        _, stderr = self.process.communicate(timeout=PATIENCE_SECONDS)
        assert self.process.returncode is not None
        return Ended(self.process.returncode, stderr, parse_report(self.log.read_bytes()))
