"""The figures for `strategy: Auto`: from earlier starts if there are any, otherwise from probes."""

import logging
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Final

from neuronmodel_api.config import WorkerConfig
from neuronmodel_worker.artifact_keys import shard_bytes
from neuronmodel_worker.failures import WorkerFailure
from neuronmodel_worker.io.aligned import SLACK, fresh
from neuronmodel_worker.io.probe import VolumeProbe, reading_rate
from neuronmodel_worker.plan.native import NativePlan
from neuronmodel_worker.plan.streamed import ModelPlan
from neuronmodel_worker.prepare.auto import Figures, starts_per_source
from neuronmodel_worker.sources import SourceFile, WeightSource

log = logging.getLogger(__name__)

NATIVE_SECONDS: Final = {"load": 187.4, "read": 107.8, "write": 1856.6 - 187.4}
"""Seconds for Llama 3.1 405B on a trn2.48xlarge, from AWS's weight sharding guide: a start that shards, one that reads
shards, and how much longer than the first it takes to make them."""
NATIVE_SOURCE_BYTES: Final = 812 * 10**9
NATIVE_SHARD_BYTES: Final = 871 * 10**9


NETWORK_PIECE_BYTES: Final = 16 << 20
NETWORK_ROUNDS: Final = 2
"""How many pieces each read of a probe may follow up with: connections have to be made first."""
NETWORK_SHARE: Final = 4
"""At most this part of the file is read for a probe, as it is read again later."""
NETWORK_SECONDS: Final = 5.0
"""After which no further piece is begun."""


def figures_of(config: WorkerConfig, plan: ModelPlan, key: str, probe: VolumeProbe | None, *, sealed: bool) -> Figures:
    """Returns the figures. `key` is the key of the shards. It reads some of the source if no start has reported its
    rate."""
    history = config.history
    load = history.sharded_bytes_per_second if history else None
    read = history.read_bytes_per_second if history else None
    figures = Figures(
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
    return capped_at_native_rates(figures) if isinstance(plan, NativePlan) else figures


def capped_at_native_rates(figures: Figures) -> Figures:
    """Limits all rates to those in AWS's guide: NxD Inference is slower than fast disks.

    The size of the shards is an estimate; making them takes so long that few starts of the same weights never pay for
    it.
    """
    source, shards = NATIVE_SOURCE_BYTES, NATIVE_SHARD_BYTES
    write = figures.write_bytes_per_second or figures.read_bytes_per_second
    return replace(
        figures,
        load_bytes_per_second=min(figures.load_bytes_per_second, round(source / NATIVE_SECONDS["load"])),
        read_bytes_per_second=min(figures.read_bytes_per_second, round(shards / NATIVE_SECONDS["read"])),
        write_bytes_per_second=min(write, round(shards / NATIVE_SECONDS["write"])),
    )


def source_rate(plan: ModelPlan) -> int:
    """Measures the reading rate of the biggest file that is read, in bytes per second; 0 if it cannot be measured."""
    files = tuple(dict.fromkeys(read.source.file for read in plan.reads.values()))
    try:
        if not plan.checkpoint.source.is_local:
            return network_rate(plan.checkpoint.source, files)
        rate = reading_rate(files)
    except OSError as error:
        log.warning("the source could not be probed: %s", error.strerror or error)
        return 0
    except WorkerFailure as failure:
        log.warning("the source could not be probed: %s", failure)
        return 0
    return round(rate.bytes_per_second) if rate else 0


def network_rate(source: WeightSource, files: Iterable[SourceFile]) -> int:
    """Measures how fast the first bytes of the biggest file come, with as many reads at a time as the source wants.
    Raises what reading raises."""
    biggest = max(files, key=lambda file: file.nbytes, default=None)
    if biggest is None:
        return 0
    limit = min(biggest.nbytes // NETWORK_SHARE, source.parallel_reads * NETWORK_PIECE_BYTES * NETWORK_ROUNDS)
    pieces = [(at, min(NETWORK_PIECE_BYTES, limit - at)) for at in range(0, limit, NETWORK_PIECE_BYTES)]
    file = source.open(biggest)
    began = time.monotonic()

    def read(piece: tuple[int, int]) -> int:
        position, nbytes = piece
        if time.monotonic() - began > NETWORK_SECONDS:
            return 0
        return file.read(position, nbytes, fresh(nbytes + SLACK)).nbytes

    try:
        with ThreadPoolExecutor(source.parallel_reads, thread_name_prefix="probe") as pool:
            nbytes = sum(pool.map(read, pieces))
    finally:
        file.close()
    return round(nbytes / max(time.monotonic() - began, 1e-6))
