"""`make bench`: measures sharding on this machine, judges it, and writes docs/performance.md, .json and .svg.

Takes some 45 minutes on two cores and a disk of 1 GB/s, and up to 40 GB of disk; nothing else should run meanwhile.
`--quick` is a look in two minutes that touches no page.
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

from hack.bench import machine
from hack.bench.cases import Case, cases, narrowed, quick_cases, rounds_of
from hack.bench.children import PROJECT
from hack.bench.commands import NAME as COMMANDS
from hack.bench.commands import CommandTimes, time_commands
from hack.bench.failures import BenchFailed
from hack.bench.quiet import QUICK, THOROUGH, Filler, require_linux
from hack.bench.report import put_between_markers, report
from hack.bench.results import to_json
from hack.bench.rounds import Bench, CaseRuns

ROUNDS = 9
QUICK_ROUNDS = 3
PAGE = "performance.md"


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
    names = [COMMANDS, *(case.name for case in cases())]
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
    require_linux()
    began = time.monotonic()
    chosen = [_with_contenders(case, options.contender) for case in _cases(options)]
    rounds = options.rounds or (QUICK_ROUNDS if options.quick else ROUNDS)
    scratch: Path = options.scratch.absolute()
    scratch.mkdir(parents=True, exist_ok=True)
    out: Path = options.out or (PROJECT / "docs" if _is_full(options) else scratch / "results")
    shutil.rmtree(scratch / "output", ignore_errors=True)
    about = machine.describe(scratch)
    patience = QUICK if options.quick else THOROUGH
    filler = Filler(scratch / "filler")
    bench = Bench(scratch, filler, replace(patience, fill=0) if options.no_fill else patience)
    results: list[CaseRuns] = []
    commands: list[CommandTimes] = []
    for case in chosen:
        bench.pace.expect(case, rounds_of(case, rounds))
    try:
        if not options.contender and COMMANDS in (options.only or [COMMANDS]):
            print("\nCommands", flush=True)
            commands = time_commands(scratch, rounds)
            _write(out, results, commands, about, time.monotonic() - began)
        for case in chosen:
            results.append(bench.run(case, rounds, options.keep))
            _write(out, results, commands, about, time.monotonic() - began)
    finally:
        filler.close()
    print(f"\n{report(results, commands, about)}\n\n{(time.monotonic() - began) / 60:.1f} minutes; results in {out}.")


def _cases(options: argparse.Namespace) -> list[Case]:
    known = quick_cases() if options.quick else cases()
    unknown = set(options.only or ()) - {case.name for case in known} - {COMMANDS}
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


def _write(
    out: Path, results: Sequence[CaseRuns], commands: Sequence[CommandTimes], about: dict[str, str], seconds: float
) -> None:
    """After every case, so that hours are not lost to the last one."""
    from hack.bench.plot import draw

    out.mkdir(parents=True, exist_ok=True)
    (out / "performance.json").write_text(json.dumps(to_json(results, commands, about, seconds), indent=1) + "\n")
    draw(results, out / "performance.svg")
    if (out / PAGE).is_file():
        put_between_markers(out / PAGE, report(results, commands, about))


if __name__ == "__main__":
    sys.exit(main())
