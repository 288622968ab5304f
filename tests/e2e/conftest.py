"""The cluster with the operator on it, and a fresh namespace for every module."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest
from xdist.scheduler import LoadFileScheduling

from hack.cluster import volumes
from hack.cluster.layout import LAYOUT, PROJECT
from hack.cluster.locks import one_at_a_time
from tests.cluster.conftest import TESTS
from tests.waiting import TEST_SECONDS

from . import capital as capital_of_france
from .capital import Capital
from .chart import Chart
from .cluster import Cluster
from .room import Room, wait_for_deletion

CANNOT_RUN_HERE = 3
"""What `hack.cluster` exits with on a machine that cannot run a cluster."""
IS_ONE_OF_SEVERAL = "PYTEST_XDIST_WORKER" in os.environ
"""Whether another process has begun this one, and holds the cluster for all of them."""
OF_CAPITAL = frozenset(
    {"test_confinement", "test_conversations", "test_first_start", "test_levels", "test_second_start"}
)
"""Modules that have the fixture `capital` in common: one process runs them."""
ROOMS = "e2e-"
"""How the names of the tests' namespaces begin."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """A test's own time is limited; a cluster from nothing, in the first one's fixtures, takes what it takes."""
    for marker in (marker for marker in ("campaign", "observe") if marker not in config.getoption("-m")):
        left_out = [item for item in items if item.get_closest_marker(marker)]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.timeout(TEST_SECONDS, func_only=True))


class Scheduling(LoadFileScheduling):  # type: ignore[misc]
    """A module is run by one process, as its tests share a room; those that share more are one module to it."""

    def _split_scope(self, nodeid: str) -> str:
        module: str = super()._split_scope(nodeid)
        return "capital" if Path(module).stem in OF_CAPITAL else module


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadFileScheduling | None:
    return Scheduling(config, log) if config.getoption("dist") == "loadfile" else None


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_setupnodes(config: pytest.Config) -> None:
    """In the process that begins the others: it has the cluster for them all, with the operator on it."""
    if not bring_up():
        return
    stack = ExitStack()
    config.add_cleanup(stack.close)
    stack.enter_context(one_at_a_time(TESTS))
    stack.enter_context(installed(built_chart(Cluster(LAYOUT.kubeconfig))))


def bring_up() -> bool:
    """Has the cluster up with the model on it; False where no cluster can run and none has to."""
    for step in ("up", "model"):
        exit_code = subprocess.run([sys.executable, "-m", "hack.cluster", step], cwd=PROJECT, check=False).returncode
        if exit_code == CANNOT_RUN_HERE and os.environ.get("CI") != "true":
            return False
        assert exit_code == 0, f"`python3 -m hack.cluster {step}` exited with {exit_code}"
    return True


def built_chart(cluster: Cluster) -> Chart:
    """The chart with images built from this tree."""
    subprocess.run([sys.executable, "-m", "hack.cluster", "images"], cwd=PROJECT, check=True)
    images = json.loads(LAYOUT.images.read_text())
    return Chart(cluster, images["operator"], images["worker"])


@contextmanager
def installed(chart: Chart) -> Iterator[Chart]:
    """Stays installed; what the tests made goes."""
    chart.install()
    yield chart
    for namespace in chart.cluster.find("Namespace"):
        if namespace["metadata"]["name"].startswith(ROOMS):
            wait_for_deletion(chart.cluster, namespace["metadata"]["name"])
    volumes.recycle()


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """Up, with the model on it, and nobody else's tests: their rooms and volumes have the same names."""
    if not bring_up():
        pytest.skip("the end-to-end tests are left out: a cluster cannot run on this machine (see above)")
    with nullcontext() if IS_ONE_OF_SEVERAL else one_at_a_time(TESTS):
        yield Cluster(LAYOUT.kubeconfig)


@pytest.fixture(scope="session")
def chart(cluster: Cluster) -> Iterator[Chart]:
    """The operator, installed from the chart with images built from this tree."""
    chart = built_chart(cluster)
    if IS_ONE_OF_SEVERAL:
        yield chart
        return
    with installed(chart):
        yield chart


@pytest.fixture(autouse=True)
def capital_is_shared_where_it_is_said(request: pytest.FixtureRequest) -> None:
    if "capital" in request.fixturenames:
        assert request.path.stem in OF_CAPITAL, "name the module in OF_CAPITAL, or two processes serve the model"


@pytest.fixture(scope="module")
def room(request: pytest.FixtureRequest, chart: Chart) -> Iterator[Room]:
    subject = request.module.__name__.rpartition(".")[2].removeprefix("test_").replace("_", "-")
    with Room(chart.cluster, f"{ROOMS}{subject}").entered() as made:
        yield made


@pytest.fixture(scope="session")
def capital(chart: Chart) -> Iterator[Capital]:
    """SmolLM2, served with both strategies."""
    with Room(chart.cluster, f"{ROOMS}capital").entered() as made:
        yield capital_of_france.serve(made)
