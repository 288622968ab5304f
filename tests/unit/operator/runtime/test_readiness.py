"""/readyz and its probe: ready or not, in sentences."""

import asyncio
import logging
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import pytest
from prometheus_client import CollectorRegistry, generate_latest

from neuronmodel_operator import probe
from neuronmodel_operator.runtime.health import Health, WatchPulse, serve
from neuronmodel_operator.runtime.metrics import Metrics
from neuronmodel_operator.runtime.readiness import MAX_SENTENCES, Readiness, Startup
from tests.ports import free_port


class Says:
    def __init__(self) -> None:
        self.complaints: list[str] = []
        self.remarks: list[str] = []
        self.readiness = Readiness([lambda: self.complaints], [lambda: self.remarks])


@pytest.fixture
def says() -> Says:
    return Says()


@asynccontextmanager
async def served(readiness: Readiness) -> AsyncIterator[int]:
    port = free_port()
    async with serve(Health(WatchPulse(), dict, lambda: 0.0, CollectorRegistry()), readiness, port):
        yield port


async def readyz(port: int) -> tuple[int, str]:
    async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{port}/readyz") as response:
        return response.status, await response.text()


async def test_complaints_make_it_not_ready_and_remarks_do_not(says: Says) -> None:
    async with served(says.readiness) as port:
        assert await readyz(port) == (200, "ok\n")
        says.remarks = ["It stands by."]
        assert await readyz(port) == (200, "ok\nRemark: It stands by.\n")
        says.complaints = ["Rights are lacking."]
        assert await readyz(port) == (503, "Rights are lacking.\nRemark: It stands by.\n")


async def test_what_is_not_ready_is_alive(says: Says) -> None:
    says.complaints = ["Rights are lacking."]
    async with (
        served(says.readiness) as port,
        aiohttp.ClientSession() as session,
        session.get(f"http://127.0.0.1:{port}/healthz") as response,
    ):
        assert response.status == 200


async def test_more_than_an_event_holds_is_counted(says: Says) -> None:
    says.complaints = [f"Complaint {number}." for number in range(MAX_SENTENCES + 2)]
    async with served(says.readiness) as port:
        _, text = await readyz(port)
    assert text.splitlines()[-1] == "And 2 more; the operator's log has them."


def test_it_waits_for_its_beginning() -> None:
    startup = Startup()
    assert startup.complaints()
    startup.wait_for("NeuronModels can't be listed.")
    assert startup.complaints() == ["NeuronModels can't be listed."]
    startup.end()
    assert startup.complaints() == []


def test_each_change_is_logged_once(says: Says, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    for complaints in ([], [], ["Rights are lacking."], ["Rights are lacking."], [], []):
        says.complaints = complaints
        says.readiness.log_changes()
    assert [record.getMessage() for record in caplog.records] == ["ready", "not ready: Rights are lacking.", "ready"]


@pytest.mark.parametrize(("complaints", "value"), [([], "1.0"), (["Rights are lacking."], "0.0")])
def test_prometheus_sees_it(says: Says, complaints: list[str], value: str) -> None:
    says.complaints = complaints
    metrics = Metrics()
    metrics.show_readiness(lambda: says.readiness.is_ready)
    assert f"neuronmodel_operator_ready {value}" in generate_latest(metrics.registry).decode()


async def test_the_probe_prints_the_answer_and_fails_when_it_is_not_ready(
    says: Says, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with served(says.readiness) as port:
        assert await asyncio.to_thread(probe.ask, port) == (True, "ok\n")
        says.complaints = ["Rights are lacking – all of them."]
        assert await asyncio.to_thread(probe.ask, port) == (False, "Rights are lacking – all of them.\n")
        monkeypatch.setenv("NEURONMODEL_HEALTH_PORT", str(port))
        command = [sys.executable, "-m", "neuronmodel_operator.probe"]
        done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (1, "Rights are lacking – all of them.\n", "")


def test_a_probe_of_an_operator_that_is_not_there_says_so() -> None:
    is_ready, text = probe.ask(free_port())
    assert not is_ready
    assert "does not answer on port" in text


def test_the_probe_imports_next_to_nothing() -> None:
    code = "import neuronmodel_operator.probe, sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert {"aiohttp", "kopf", "asyncio", "ssl", "pydantic"}.isdisjoint(done.stdout.split())
