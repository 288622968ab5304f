"""Ours, with the processor seconds of each step.

Measuring costs some microseconds a call, and is in none of the others' figures.
"""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from hack.bench.contenders.step_times import Replacements, StepTimes, replaced
from hack.bench.contenders.task import Task, Timed
from neuronmodel_worker.checkpoint import open_checkpoint
from neuronmodel_worker.io.aligned import Array
from neuronmodel_worker.plan.streamed import make_plan
from neuronmodel_worker.stream import FileSink, TensorSink, filesink, run
from neuronmodel_worker.stream.execution import StreamThreads
from neuronmodel_worker.stream.filesink import RankFileWriter
from neuronmodel_worker.stream.schedule import ChunkCopy
from neuronmodel_worker.stream.source_reader import SourceReader
from neuronmodel_worker.stream.steps import Step

REST = "planning and the rest"


class _Digest:
    """A tensor's digest that is a step of its own."""

    def __init__(self, digest: Any, steps: StepTimes) -> None:
        self._digest = digest
        self.update = steps.measured(digest.update, "digest")
        self.digest = digest.digest


class _Writer(RankFileWriter):
    steps: StepTimes

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.digests = {name: _Digest(each, self.steps) for name, each in self.digests.items()}  # type: ignore[misc]


def _computing(
    _: object, rows: Array, source_dtype: str, task: object, copy: ChunkCopy, step: Step, frame: Array
) -> str:
    if len(step.block.parts) > 1:
        return "fused QKV"
    if source_dtype != step.target.dtype or copy.part.factor is not None:
        return "cast and multiply"
    return "transpose" if step.target.transposed else "copy"


def prepare(task: Task) -> Timed:
    """`into` is "files" or "memory"."""
    steps = StepTimes()
    plan = make_plan(open_checkpoint(task.source), task.neuron_config)
    sink: FileSink | TensorSink = FileSink(task.output)
    if task.options["into"] == "memory":
        sink = TensorSink()
        sink.allocate(plan)

    def shard() -> Mapping[str, float]:
        steps.seconds.clear()
        before = time.process_time()
        with _measuring(steps):
            run(plan, sink)
        total = time.process_time() - before
        return {**steps.seconds, REST: max(0.0, total - sum(steps.seconds.values()))}

    return shard


@contextmanager
def _measuring(steps: StepTimes) -> Iterator[None]:
    class Writer(_Writer):
        pass

    Writer.steps = steps
    put: Replacements = (
        (StreamThreads, "copy", steps.measured(StreamThreads.copy, _computing)),
        (SourceReader, "read", steps.measured(SourceReader.read, "read")),
        (RankFileWriter, "allocate", steps.measured(RankFileWriter.allocate, "allocate files")),
        (RankFileWriter, "write_tensor", steps.measured(RankFileWriter.write_tensor, "write")),
        (FileSink, "frame", steps.measured(FileSink.frame, "lend and zero memory")),
        (filesink, "RankFileWriter", Writer),
    )
    with replaced(put):
        yield
