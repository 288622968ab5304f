"""The inputs of a host command: checkpoint, NxD Inference's fields, ranks and threads, checked and made into a plan."""

import argparse
import json
import re
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from neuronmodel_worker.checkpoint import open_checkpoint
from neuronmodel_worker.commands.model_source import open_source
from neuronmodel_worker.commands.terminal import print_note
from neuronmodel_worker.commands.usage_errors import NeuronConfigInvalid
from neuronmodel_worker.failures import UsageInvalid
from neuronmodel_worker.io.readers import reading_threads
from neuronmodel_worker.plan.streamed import StreamedPlan, make_plan
from neuronmodel_worker.stream import streaming_threads

MAX_CONFIG_BYTES = 1 << 20
MAX_THREADS = 1024
STANDARD_INPUT = "-"


def open_plan(options: argparse.Namespace) -> StreamedPlan:
    """Returns the plan that the options ask for. Raises a BadInput or SourceUnreadable."""
    return open_plan_and_fields(options)[0]


def open_plan_and_fields(options: argparse.Namespace) -> tuple[StreamedPlan, dict[str, Any]]:
    """Returns the plan, and the fields that it was made with."""
    given_threads(options)
    ranks = parse_ranks(options.ranks) if options.ranks is not None else None
    config = read_neuron_config(options.neuron_config)
    if ranks is not None:
        config = with_ranks(config, ranks, options.neuron_config)
    return make_plan(open_checkpoint(open_source(options.model)), config), config


def show_warnings(plan: StreamedPlan, options: argparse.Namespace) -> None:
    """Prints the plan's warnings on standard error."""
    for warning in plan.warnings:
        print_note(options.command, warning)


def threads_of(options: argparse.Namespace) -> int:
    """Returns the number of threads that shard. Raises UsageInvalid."""
    return given_threads(options) or streaming_threads()


def reading_threads_of(options: argparse.Namespace) -> int:
    """Returns the number of threads that only read. Raises UsageInvalid."""
    return given_threads(options) or reading_threads()


def given_threads(options: argparse.Namespace) -> int | None:
    """Returns the number of threads that the options name. Raises UsageInvalid."""
    if options.threads is None:
        return None
    if not re.fullmatch(r"[0-9]{1,9}", options.threads) or not 1 <= int(options.threads) <= MAX_THREADS:
        raise UsageInvalid(f"--threads is {options.threads!r} and has to be a number from 1 to {MAX_THREADS}.")
    return int(options.threads)


def parse_ranks(text: str) -> range:
    """Parses `A-B` or `A`, both ends included, or several of them, separated by commas, that form one range.

    Raises UsageInvalid.
    """
    ranks: set[int] = set()
    for each in text.split(","):
        match = re.fullmatch(r"\s*([0-9]{1,6})(?:-([0-9]{1,6}))?\s*", each)
        if not match or int(match[2] or match[1]) < int(match[1]):
            raise UsageInvalid(f"--ranks is {text!r} and has to be a rank or a range of ranks, such as 3 or 0-15.")
        ranks.update(range(int(match[1]), int(match[2] or match[1]) + 1))
    whole = range(min(ranks), max(ranks) + 1)
    if len(whole) != len(ranks):
        raise UsageInvalid(
            f"--ranks is {text!r}, which leaves out ranks in between, and only ranks that follow each other are made "
            "in one run. Run the command once for each range; the same --output takes them all."
        )
    return whole


def with_ranks(config: Mapping[str, Any], ranks: range, file: str) -> dict[str, Any]:
    """Returns the fields with these ranks. Raises UsageInvalid if the file names other ranks itself, or has fewer."""
    degree = config.get("tp_degree") or 1
    if type(degree) is int and 0 < degree < ranks.stop:
        raise UsageInvalid(
            f"--ranks asks for {_named(ranks)}, and tp_degree={degree} of {_shown(file)} has ranks 0 to {degree - 1}. "
            "Ask for some of these."
        )
    wanted = {"start_rank_id": ranks.start, "local_ranks_size": len(ranks)}
    for name, value in wanted.items():
        if config.get(name, value) not in (value, None):
            raise UsageInvalid(
                f"--ranks asks for {_named(ranks)}, which makes {name}={value}, and {_shown(file)} says "
                f"{name}={config[name]!r}. Leave out one of the two."
            )
    return {**config, **wanted}


def _named(ranks: range) -> str:
    return f"rank {ranks.start}" if len(ranks) == 1 else f"ranks {ranks.start} to {ranks.stop - 1}"


def _shown(file: str) -> str:
    return "standard input" if file == STANDARD_INPUT else file


def read_neuron_config(file: str) -> dict[str, Any]:
    """Returns the fields in `file` unchanged. Raises NeuronConfigInvalid."""
    where = _shown(file)
    fields = _parse(_read(file, where), where)
    if not isinstance(fields, dict):
        raise NeuronConfigInvalid(
            f'{where} holds no JSON object. Put NxD Inference\'s fields into it, such as {{"tp_degree": 8}}.'
        )
    if isinstance(fields.get("neuron_config"), dict):
        raise NeuronConfigInvalid(
            f"{where} is a whole configuration of a model, as NxD Inference saves it. Give what stands in it under "
            "neuron_config alone."
        )
    return fields


def _read(file: str, where: str) -> bytes:
    try:
        if file == STANDARD_INPUT:
            if not sys.stdin:
                raise NeuronConfigInvalid("Standard input is closed. Name a file with --neuron-config.")
            raw = sys.stdin.buffer.read(MAX_CONFIG_BYTES + 1)
        else:
            with Path(file).open("rb") as stream:
                raw = stream.read(MAX_CONFIG_BYTES + 1)
    except OSError as error:
        raise NeuronConfigInvalid(
            f"{where} cannot be read: {error.strerror or error}. Name a file of NxD Inference's NeuronConfig fields "
            "with --neuron-config."
        ) from error
    if len(raw) > MAX_CONFIG_BYTES:
        raise NeuronConfigInvalid(
            f"{where} is longer than {MAX_CONFIG_BYTES:,} bytes, far more than such a file holds. Name the right one."
        )
    return raw


def _parse(raw: bytes, where: str) -> object:
    def unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
        if len(fields := dict(pairs)) < len(pairs):
            name, _ = Counter(name for name, _ in pairs).most_common(1)[0]
            raise NeuronConfigInvalid(f"{where} has {name!r} twice. Leave one of them.")
        return fields

    try:
        return json.loads(raw.decode("utf-8-sig"), object_pairs_hook=unique)
    except UnicodeDecodeError as error:
        raise NeuronConfigInvalid(
            f"{where} is not in UTF-8: byte {error.start} is no part of it. Save it as UTF-8 text."
        ) from error
    except json.JSONDecodeError as error:
        raise NeuronConfigInvalid(
            f"{where} is not valid JSON at line {error.lineno}, column {error.colno}: {error.msg}. Correct it there."
        ) from error
    except (ValueError, RecursionError) as error:
        raise NeuronConfigInvalid(f"{where} is not valid JSON: {error}. Correct it.") from error
