"""`neuronmodel load`: shards a checkpoint into memory, and says how long it took."""

import argparse
import time

from neuronmodel_worker.commands.inputs import open_plan, show_warnings, threads_of
from neuronmodel_worker.commands.terminal import print_line, progress
from neuronmodel_worker.commands.usage_errors import MemoryTooSmall
from neuronmodel_worker.io.cgroups import available_bytes
from neuronmodel_worker.stream import TensorSink, Transferred, buffer_bytes, run
from neuronmodel_worker.units import duration, in_units, rate


def load(options: argparse.Namespace) -> None:
    """Raises a WorkerFailure; MemoryTooSmall before any memory is allocated."""
    plan = open_plan(options)
    threads = threads_of(options)
    show_warnings(plan, options)
    needed = plan.output_bytes + buffer_bytes(plan, threads=threads, into_memory=True)
    if (available := available_bytes()) < needed:
        raise MemoryTooSmall(needed, available)
    sink, began = TensorSink(), time.monotonic()
    sink.allocate(plan)
    touched = time.monotonic() - began
    count = f"{len(plan.ranks)} {'rank' if len(plan.ranks) == 1 else 'ranks'}"
    print_line(f"allocated {in_units(plan.output_bytes)} for {count} in {duration(touched)}")
    with progress("load", "read", plan.source_bytes, options.quiet) as show:

        def reached(so_far: Transferred) -> None:
            show(so_far.bytes_read)

        result = run(plan, sink, reached, threads=threads)
    print_line(
        f"loaded {in_units(result.bytes_read)} into {count} in {duration(result.seconds)} "
        f"({rate(result.bytes_read, result.seconds)}); the disk was read from for "
        f"{duration(result.busy_reading_seconds)} of them"
    )
