"""Ours: a checkpoint from a Hub, which is the tests' own. And what it is held to: the same bytes, downloaded in the
same ranges and dropped."""

from hack.bench.contenders.network import prepared, serve
from hack.bench.contenders.task import Task, Timed
from neuronmodel_worker.sources.hub.address import HubAddress
from neuronmodel_worker.sources.hub.client import HubServer
from neuronmodel_worker.sources.hub.repository import open_repository

REPOSITORY = "bench/model"


def prepare(task: Task) -> Timed:
    """`bytes_per_second` is what the Hub gives to all connections together, or None."""
    rate = task.options["bytes_per_second"]
    fault = {"origin": "cdn", "bytes_per_second": rate} if rate else None
    endpoint = serve("tests.standins.hub", "--repository", f"{REPOSITORY}={task.source}", fault=fault)
    return prepared(open_repository(HubAddress(REPOSITORY), HubServer(endpoint)), task)
