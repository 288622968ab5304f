"""What contenders that read from a network share: a stand-in of the tests, in a process of its own on this machine, and
what is done with the source that it serves."""

import atexit
import json
import subprocess
import sys
import urllib.request
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from hack.bench.contenders.task import Task, Timed
from neuronmodel_worker.checkpoint import open_checkpoint
from neuronmodel_worker.plan.streamed import make_plan
from neuronmodel_worker.sources.remote.byte_ranges import PART_BYTES
from neuronmodel_worker.sources.remote.remote_source import RemoteSource
from neuronmodel_worker.stream import FileSink, TensorSink, run


def serve(module: str, *arguments: str, fault: Mapping[str, Any] | None) -> str:
    """Starts a stand-in that ends with this process, and makes it slow by this rule; its address."""
    server = subprocess.Popen([sys.executable, "-m", module, *arguments], stdout=subprocess.PIPE, text=True)
    atexit.register(server.kill)
    assert server.stdout
    about = json.loads(server.stdout.readline())
    if fault:
        _add_fault(f"{about['control']}/faults", fault)
    return str(about["endpoint"])


def _add_fault(url: str, fault: Mapping[str, Any]) -> None:
    request = urllib.request.Request(  # noqa: S310 - this machine's own
        url, json.dumps(fault).encode(), {"Content-Type": "application/json"}, method="POST"
    )
    with urllib.request.urlopen(request):  # noqa: S310
        pass


def prepared(source: RemoteSource, task: Task) -> Timed:
    """`into` is "nothing", "memory" or "files"; into nothing, `in_flight` ranges of `part_bytes` are read at a time,
    absent: as many and as large ones as the source is read with."""
    if task.options["into"] == "nothing":
        in_flight = task.options.get("in_flight", source.parallel_reads)
        return lambda: _download(source, in_flight, task.options.get("part_bytes", PART_BYTES))
    plan = make_plan(open_checkpoint(source), task.neuron_config)
    sink: FileSink | TensorSink = FileSink(task.output)
    if task.options["into"] == "memory":
        sink = TensorSink()
        sink.allocate(plan)

    def shard() -> None:
        run(plan, sink)

    return shard


def _download(source: RemoteSource, in_flight: int, part_bytes: int) -> None:
    files = [file for name, file in source.files.items() if name.endswith(".safetensors")]
    parts = [
        (file, start, min(part_bytes, file.nbytes - start))
        for file in files
        for start in range(0, file.nbytes, part_bytes)
    ]
    with ThreadPoolExecutor(in_flight) as pool:
        for _ in pool.map(lambda part: source.read_range(*part).nbytes, parts):
            pass
