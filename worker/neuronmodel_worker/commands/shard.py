"""`neuronmodel shard`: writes the rank files of a checkpoint, in a folder that NxD Inference reads."""

import argparse
import time

from neuronmodel_worker.commands.inputs import open_plan, show_warnings, threads_of
from neuronmodel_worker.commands.output_folder import OutputFolder, claimed, rank_metadata
from neuronmodel_worker.commands.terminal import print_line, print_note, progress
from neuronmodel_worker.commands.tokenizer_files import with_tokenizer_warnings
from neuronmodel_worker.io.disk import WrittenFile
from neuronmodel_worker.plan.streamed import StreamedPlan
from neuronmodel_worker.run.signals import ignore_signals
from neuronmodel_worker.stream import FileSink, Transferred, run
from neuronmodel_worker.units import duration, in_units, rate


def shard(options: argparse.Namespace) -> None:
    """Raises a WorkerFailure, and leaves no incomplete file."""
    plan = with_tokenizer_warnings(open_plan(options))
    show_warnings(plan, options)
    began = time.monotonic()
    with claimed(options.output, plan) as folder:
        files = _write(plan, folder, options)
        folder.seal()
    seconds = time.monotonic() - began
    if folder.removed:
        print_note("shard", f"removed {', '.join(folder.removed)} from {folder.weights}: of other shards than these")
    written = sum(file.nbytes for file in files)
    print_line(
        f"wrote {in_units(written)} in {len(files)} rank {'file' if len(files) == 1 else 'files'} in "
        f"{duration(seconds)} ({rate(written, seconds)})"
    )


def _write(plan: StreamedPlan, folder: OutputFolder, options: argparse.Namespace) -> tuple[WrittenFile, ...]:
    def before_publish(files: tuple[WrittenFile, ...]) -> None:
        ignore_signals()
        folder.prepare(files)

    with progress("shard", "written", plan.output_bytes, options.quiet) as show:

        def reached(so_far: Transferred) -> None:
            show(so_far.bytes_written)

        sink = FileSink(folder.weights, before_publish, metadata=rank_metadata(plan))
        return run(plan, sink, reached, threads=threads_of(options)).files
