"""Figures for `strategy: Auto`: of earlier starts where there are some, else of probes."""

import logging

from neuronmodel_api.config import WorkerConfig
from neuronmodel_worker.plan import Plan
from neuronmodel_worker.prepare.room import shard_bytes
from neuronmodel_worker.probe import VolumeProbe, reading_rate
from neuronmodel_worker.strategy import Figures, starts_per_source

log = logging.getLogger(__name__)


def figures_of(config: WorkerConfig, plan: Plan, key: str, probe: VolumeProbe | None, *, sealed: bool) -> Figures:
    """`key` is that of the shards. Reads some of the source, where no start has told how fast it is."""
    history = config.history
    load = history.sharded_bytes_per_second if history else None
    read = history.read_bytes_per_second if history else None
    return Figures(
        source_bytes=plan.source_bytes,
        shard_bytes=shard_bytes(plan, key),
        load_bytes_per_second=load or source_rate(plan),
        read_bytes_per_second=read or (probe and probe.read_bytes_per_second) or 0,
        write_bytes_per_second=(probe and probe.write_bytes_per_second) or 0,
        starts_per_source=starts_per_source(history),
        sealed=sealed,
        seal=config.seal,
        former=history.former_strategy if history else None,
    )


def source_rate(plan: Plan) -> int:
    """Bytes a second of the biggest file that is read; 0: it could not be told."""
    files = tuple(dict.fromkeys(read.source.file for read in plan.reads.values()))
    try:
        rate = reading_rate(files)
    except OSError as error:
        log.warning("the source could not be probed: %s", error.strerror or error)
        return 0
    return round(rate.bytes_per_second) if rate else 0
