"""Ours: a checkpoint from a Hub, which is the tests' own, in a process of its own on this machine. And what it is held
to: the same bytes, downloaded in the same ranges and dropped."""

import atexit
import json
import subprocess
import sys
import urllib.request
from concurrent.futures import ThreadPoolExecutor

from hack.bench.contenders.task import Task, Timed
from neuronmodel_worker.checkpoint import open_checkpoint
from neuronmodel_worker.plan.streamed import make_plan
from neuronmodel_worker.sources.hub.address import HubAddress
from neuronmodel_worker.sources.hub.client import HubServer
from neuronmodel_worker.sources.hub.repository import PARALLEL_READS, HubRepository, open_repository
from neuronmodel_worker.sources.remote.byte_ranges import PART_BYTES
from neuronmodel_worker.stream import FileSink, TensorSink, run

REPOSITORY = "bench/model"


def prepare(task: Task) -> Timed:
    """`into` is "nothing", "memory" or "files"; `bytes_per_second` is what the Hub gives to all connections together,
    or None."""
    repository = open_repository(HubAddress(REPOSITORY), HubServer(_serve(task)))
    if task.options["into"] == "nothing":
        return lambda: _download(repository)
    plan = make_plan(open_checkpoint(repository), task.neuron_config)
    sink: FileSink | TensorSink = FileSink(task.output)
    if task.options["into"] == "memory":
        sink = TensorSink()
        sink.allocate(plan)

    def shard() -> None:
        run(plan, sink)

    return shard


def _serve(task: Task) -> str:
    """Starts a Hub that ends with this process; its address."""
    command = [sys.executable, "-m", "tests.standins.hub", "--repository", f"{REPOSITORY}={task.source}"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    atexit.register(server.kill)
    assert server.stdout
    about = json.loads(server.stdout.readline())
    if rate := task.options["bytes_per_second"]:
        rule = json.dumps({"origin": "cdn", "bytes_per_second": rate}).encode()
        request = urllib.request.Request(  # noqa: S310 - this machine's own
            f"{about['control']}/faults", rule, {"Content-Type": "application/json"}, method="POST"
        )
        with urllib.request.urlopen(request):  # noqa: S310
            pass
    return str(about["endpoint"])


def _download(repository: HubRepository) -> None:
    files = [file for name, file in repository.files.items() if name.endswith(".safetensors")]
    parts = [
        (file, start, min(PART_BYTES, file.nbytes - start))
        for file in files
        for start in range(0, file.nbytes, PART_BYTES)
    ]
    with ThreadPoolExecutor(PARALLEL_READS) as pool:
        for _ in pool.map(lambda part: repository.read_range(*part).nbytes, parts):
            pass
