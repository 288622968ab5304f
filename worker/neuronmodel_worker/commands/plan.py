"""`neuronmodel plan`: what sharding would read, write and need, from headers alone, and how long the disks would
take."""

import argparse
import json
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

from neuronmodel_worker.commands.forecast import Forecast, Measured
from neuronmodel_worker.commands.inputs import open_plan_and_fields, threads_of
from neuronmodel_worker.commands.machine_needs import Needs
from neuronmodel_worker.commands.output_folder import check_place, nearest_existing
from neuronmodel_worker.commands.terminal import print_line
from neuronmodel_worker.commands.tokenizer_files import with_tokenizer_warnings
from neuronmodel_worker.engines.installed_server import installed_server
from neuronmodel_worker.io.cgroups import anonymous_bytes
from neuronmodel_worker.io.disk import free_bytes
from neuronmodel_worker.io.probe import Rate, reading_rate, writing_rate
from neuronmodel_worker.plan.streamed import StreamedPlan
from neuronmodel_worker.stream import buffer_bytes, source_buffer_bytes
from neuronmodel_worker.units import duration, in_units

COLUMN = 15

Row = tuple[str, str]


def plan(options: argparse.Namespace) -> None:
    """Raises a WorkerFailure for anything that `shard` would refuse."""
    (made, fields), output = open_plan_and_fields(options), options.output
    if output:
        check_place(output, made.checkpoint.path)
    made = with_tokenizer_warnings(made)
    resident, threads = anonymous_bytes(), threads_of(options)
    forecast = Forecast(
        plan=made,
        needs=Needs(made, fields, options.instance_type),
        peak_bytes=resident + buffer_bytes(made, threads=threads),
        peak_load_bytes=resident + buffer_bytes(made, threads=threads, into_memory=True) + made.output_bytes,
        output=output,
        free_bytes=free_bytes(nearest_existing(output)) if output else None,
        server=installed_server(),
        measured=Measured() if options.no_measure else _measure(made, output),
    )
    if options.json:
        print_line(json.dumps(forecast.document()))
        return
    warnings = (("warning", each) for each in made.warnings)
    for name, text in [*_rows(forecast), *_time_rows(forecast), *forecast.needs.rows(), *warnings]:
        print_line(f"{name:<{COLUMN}}{text}")
    if options.tensors:
        for line in _table(made):
            print_line(line)


def _measure(plan: StreamedPlan, output: Path | None) -> Measured:
    """Measures the disks. A network is not measured: that would fetch weights."""
    files = tuple(dict.fromkeys(read.source.file for read in plan.reads.values()))
    reading, problem = None, tuple[str, ...]()
    if plan.checkpoint.source.is_local:
        reading, problem = _measure_rate("reading", lambda: reading_rate(files))
    writing = None
    if output:
        writing, another = _measure_rate("writing", lambda: writing_rate(nearest_existing(output)))
        problem += another
    return Measured(reading, writing, problem)


def _measure_rate(what: str, measure: Callable[[], Rate | None]) -> tuple[Rate | None, tuple[str, ...]]:
    try:
        rate = measure()
    except OSError as problem:
        return None, (f"{what} could not be measured: {problem.strerror or problem}",)
    return rate, () if rate else (f"{what} was not measured: too few bytes to say anything",)


def _rows(forecast: Forecast) -> Iterator[Row]:
    plan, ranks = forecast.plan, forecast.plan.ranks
    read, written = forecast.plan.source_bytes, forecast.written_bytes
    yield "model", str(plan.checkpoint.path)
    if resolution := plan.checkpoint.source.resolution:
        yield "commit", resolution.revision
    yield "model type", f"{plan.checkpoint.config.get('model_type')}, family {plan.layout.family}"
    yield "dtype", plan.layout.dtype
    yield "tp degree", str(plan.layout.flags.tp_degree)
    yield "ranks", f"{len(ranks)}: {ranks.start} to {ranks.stop - 1}"
    yield (
        "source",
        f"{_count(forecast.files, 'file')}, {len(plan.reads)} of {_count(plan.checkpoint.tensors, 'tensor')}",
    )
    yield "bytes read", f"{in_units(read)} ({read:,})"
    if (source := plan.checkpoint.source).parallel_reads > 1:
        buffers = in_units(source_buffer_bytes(plan))
        yield "network", f"{source.parallel_reads} ranges at a time, with at most {buffers} of memory for them"
    yield (
        "rank files",
        f"{_count(ranks, 'file')} of {_count(plan.tensors, 'tensor')}, {in_units(forecast.file_bytes)} each",
    )
    yield "bytes written", f"{in_units(written)} ({written:,})"
    yield "peak memory", f"{in_units(forecast.peak_bytes)} to shard, {in_units(forecast.peak_load_bytes)} to load"
    yield "target", _target(forecast)
    if forecast.server:
        yield "server", f"this environment has {forecast.server.description}"


def _target(forecast: Forecast) -> str:
    if forecast.free_bytes is None:
        return f"needs {in_units(forecast.written_bytes)} of free space; name one with --output"
    missing = forecast.written_bytes - forecast.free_bytes
    verdict = "the shards fit" if forecast.fits else f"the shards do not fit, {in_units(missing)} are missing"
    return f"{forecast.output}: {in_units(forecast.free_bytes)} free, {verdict}"


def _time_rows(forecast: Forecast) -> Iterator[Row]:
    reading, writing = forecast.measured.reading, forecast.measured.writing
    if reading and forecast.load_seconds is not None:
        yield "time to load", f"{duration(forecast.load_seconds)}, reading {_described(reading)}"
    if writing and forecast.shard_seconds:
        least, most = map(duration, forecast.shard_seconds)
        yield "time to shard", f"{least} to {most}, writing {_described(writing)}, beside reading or after it"
    if reading:
        yield "", "predicted from these rates of the disks, measured just now; processors may take longer"
    for problem in forecast.measured.errors:
        yield "time", problem


def _described(rate: Rate) -> str:
    return f"{in_units(rate.bytes_per_second)}/s{'' if rate.direct else ' with the page cache in between'}"


def _table(plan: StreamedPlan) -> Iterator[str]:
    """Yields the table of a rank's tensors and what they are made from."""
    made_from = {target.name: [part.source.name for part in target.parts()] for target in plan.targets}
    rows = [("TENSOR", "DTYPE", "SHAPE", "BYTES", "MADE FROM")]
    for tensor in plan.tensors:
        names = made_from.get(tensor.name, ["the rank's number"])
        sources = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
        rows.append((tensor.name, tensor.dtype, str(list(tensor.shape)), f"{tensor.nbytes:,}", sources))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    yield ""
    for name, dtype, shape, nbytes, sources in rows:
        yield f"{name:<{widths[0]}}  {dtype:<{widths[1]}}  {shape:<{widths[2]}}  {nbytes:>{widths[3]}}  {sources}"


def _count(things: Collection[object], what: str) -> str:
    return f"{len(things)} {what}{'' if len(things) == 1 else 's'}"
