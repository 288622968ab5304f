"""`make bench`: measures sharding on this machine, judges it, and writes docs/performance.md, .json and .svg.

Takes some 65 minutes on two cores and a disk of 1 GB/s, and up to 40 GB of disk; nothing else should run meanwhile.
`--quick` is a look in five minutes that touches no page.
"""

import argparse
import json
import os
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from hack.bench import answers, in_memory, machine
from hack.bench.cases import Case, cases, narrowed, quick_cases, rounds_of
from hack.bench.children import PROJECT
from hack.bench.commands import NAME as COMMANDS
from hack.bench.commands import time_commands
from hack.bench.failures import BenchFailed
from hack.bench.quiet import QUICK, THOROUGH, Filler, require_linux
from hack.bench.report import put_between_markers, report
from hack.bench.results import Results, from_json, to_json
from hack.bench.rounds import Bench

ROUNDS = 9
QUICK_ROUNDS = 3
PAGE, RESULTS = "performance.md", "performance.json"


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    try:
        _bench(options)
    except BenchFailed as failure:
        print(f"\nmake bench: {failure}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nmake bench: stopped", file=sys.stderr)
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m hack.bench", description=__doc__)
    names = [COMMANDS, *(case.name for case in cases()), answers.NAME]
    parser.add_argument("--quick", action="store_true", help="small checkpoints, three rounds")
    parser.add_argument(
        "--only", action="append", choices=names, metavar="CASE", help=f"of {', '.join(names)}; again for more"
    )
    parser.add_argument(
        "--contender", action="append", metavar="NAME", help="only those whose name begins so; again for more"
    )
    parser.add_argument("--rounds", type=_positive, help=f"absent: {ROUNDS}, or {QUICK_ROUNDS} with --quick")
    parser.add_argument(
        "--out", type=Path, help="folder for results; absent: docs for the full benchmark, else SCRATCH/results"
    )
    parser.add_argument(
        "--add",
        action="store_true",
        help="add the results to those that OUT has, replacing the same cases'; OUT is docs, if absent",
    )
    parser.add_argument(
        "--scratch", type=Path, default=_scratch(), help="folder for checkpoints and shards (%(default)s)"
    )
    parser.add_argument(
        "--no-fill", action="store_true", help="leave free memory as it is, to see what filling it does"
    )
    parser.add_argument("--keep", action="store_true", help="leave the checkpoints there for the next time")
    return parser  # fmt: skip


def _positive(text: str) -> int:
    if (number := int(text)) < 1:
        raise ValueError
    return number


def _scratch() -> Path:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(os.environ.get("NEURONMODEL_BENCH_DIR") or cache / "neuronmodel" / "bench")


def _bench(options: argparse.Namespace) -> None:
    _check_adding(options)
    require_linux()
    began = time.monotonic()
    chosen = [_with_contenders(case, options.contender) for case in _cases(options)]
    rounds = options.rounds or (QUICK_ROUNDS if options.quick else ROUNDS)
    scratch: Path = options.scratch.absolute()
    scratch.mkdir(parents=True, exist_ok=True)
    out: Path = options.out or (PROJECT / "docs" if _is_full(options) or options.add else scratch / "results")
    before = _before(out) if options.add else None
    shutil.rmtree(scratch / "output", ignore_errors=True)
    about = machine.describe(scratch)
    patience = QUICK if options.quick else THOROUGH
    patience = replace(patience, fill=0) if options.no_fill else patience
    filler = Filler(scratch / "filler")
    bench = Bench(scratch, filler, patience)
    results = Results(about)
    for case in chosen:
        bench.pace.expect(case, rounds_of(case, rounds))

    def write(**more: Any) -> Results:
        """After every case, so that hours are not lost to the last one."""
        found = replace(results, seconds=time.monotonic() - began, **more)
        _write(out, before.with_these(found) if before else found)
        return found

    try:
        if _is_wanted(options, COMMANDS):
            print("\nCommands", flush=True)
            results = write(commands=time_commands(scratch, rounds))
        for case in chosen:
            place = bench
            if case.in_memory:
                if (lack := in_memory.lack(case)) is not None:
                    print(f"\n{case.title}: left out. {lack}", flush=True)
                    bench.pace.forget(case)
                    continue
                place = in_memory.bench(bench, case)
            ran = replace(place.run(case, rounds, options.keep), machine=machine.describe(place.scratch))
            results = write(cases=[*results.cases, ran])
        if _is_wanted(options, answers.NAME):
            model = answers.QUICK_MODEL if options.quick else answers.MODEL
            times = answers.time_answers(scratch, rounds, filler, patience, options.keep, model)
            results = write(answers=replace(times, machine=about))
    finally:
        filler.close()
        in_memory.remove(options.keep)
    print(f"\n{report(results)}\n\n{(time.monotonic() - began) / 60:.1f} minutes; results in {out}.")


def _check_adding(options: argparse.Namespace) -> None:
    if options.add and not options.out and (options.quick or options.contender):
        raise BenchFailed("To docs whole cases of the full benchmark are added. Leave --quick and --contender out.")


def _before(out: Path) -> Results:
    """Raises BenchFailed."""
    try:
        return from_json(json.loads((out / RESULTS).read_text()))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BenchFailed(
            f"{out / RESULTS} cannot be added to ({type(error).__name__}: {error}). Run everything, without --add."
        ) from error


def _is_wanted(options: argparse.Namespace, name: str) -> bool:
    return not options.contender and name in (options.only or [name])


def _cases(options: argparse.Namespace) -> list[Case]:
    known = quick_cases() if options.quick else cases()
    unknown = set(options.only or ()) - {case.name for case in known} - {COMMANDS, answers.NAME}
    if unknown:
        raise BenchFailed(f"--quick has no case {' and '.join(sorted(unknown))}. Leave --quick out.")
    return [case for case in known if not options.only or case.name in options.only]


def _with_contenders(case: Case, beginnings: list[str] | None) -> Case:
    if not beginnings:
        return case
    kept = narrowed(case, lambda contender: contender.name.startswith(tuple(beginnings)))
    if not kept.contenders:
        names = ", ".join(repr(contender.name) for contender in case.contenders)
        raise BenchFailed(f"No contender of {case.name} is called so; there are {names}.")
    return kept


def _is_full(options: argparse.Namespace) -> bool:
    return not (options.quick or options.only or options.contender)


def _write(out: Path, results: Results) -> None:
    from hack.bench.plot import draw

    out.mkdir(parents=True, exist_ok=True)
    (out / RESULTS).write_text(json.dumps(to_json(results), indent=1) + "\n")
    draw(results.cases, out / "performance.svg")
    if (out / PAGE).is_file():
        put_between_markers(out / PAGE, report(results))


if __name__ == "__main__":
    sys.exit(main())
