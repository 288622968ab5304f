"""Ours: from the checkpoint's headers to rank files that are whole and on the disk."""

from hack.bench.contenders.task import Task, Timed
from neuronmodel_worker.checkpoint import open_checkpoint
from neuronmodel_worker.plan.streamed import make_plan
from neuronmodel_worker.stream import FileSink, run


def prepare(task: Task) -> Timed:
    """The clock covers opening the checkpoint and planning too. `threads` where they are not ours to choose."""

    def shard() -> None:
        plan = make_plan(open_checkpoint(task.source), task.neuron_config)
        run(plan, FileSink(task.output), **task.options)

    return shard
