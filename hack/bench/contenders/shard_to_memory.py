"""Ours: from a plan to every rank's tensors in memory."""

from hack.bench.contenders.task import Task, Timed
from neuronmodel_worker.checkpoint import open_checkpoint
from neuronmodel_worker.plan.streamed import make_plan
from neuronmodel_worker.stream import TensorSink, run


def prepare(task: Task) -> Timed:
    """With `allocated`, the tensors' memory is taken and touched before the clock starts."""
    options = dict(task.options)
    allocated = options.pop("allocated")
    plan, sink = make_plan(open_checkpoint(task.source), task.neuron_config), TensorSink()
    if allocated:
        sink.allocate(plan)

    def shard() -> None:
        run(plan, sink, **options)

    return shard
