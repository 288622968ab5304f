"""Ours: a start that shards the checkpoint itself, in the worker's own code. What counts are its phases from the source
opened to the rank tensors in memory."""

import shutil

from hack.bench.contenders.task import Task, Timed
from hack.bench.contenders.worker import job, prepared, probed, serving
from neuronmodel_api.config import Seal, Strategy
from neuronmodel_worker.serve.background import Background
from neuronmodel_worker.serve.loading import ModelLoader

COUNTED = ("SourceOpened", "Sharded")
"""Between them the engine is imported and the compiled model loaded."""


def prepare(task: Task) -> Timed:
    """With `behind`, the shards are to be sealed when the model answers, which is not waited for; without, it is
    ShardOnLoad. The compiled model is the one on the volume next to the checkpoint."""
    behind = {"strategy": Strategy.SHARD_ON_COMPILE, "seal": Seal.BEHIND}
    settings = behind if task.options["behind"] else {"strategy": Strategy.SHARD_ON_LOAD}
    shutil.copytree(task.volume / "compiled", task.output / "compiled")
    run = job(task, probed(task.output), **settings)
    serving_job = serving(run, prepared(run))

    def load() -> float:
        ModelLoader(serving_job, Background()).model()
        milliseconds = {phase.name: phase.milliseconds for phase in serving_job.clock.snapshot().phases}
        return sum(milliseconds[name] for name in COUNTED) / 1000

    return load
