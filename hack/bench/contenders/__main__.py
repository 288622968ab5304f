"""`python -m hack.bench.contenders MODULE TASK`: practise, prepare, say `ready` and how long practice took, wait for
`go`, run, print the Timing as JSON, wait for the end of standard input."""

import atexit
import gc
import importlib
import json
import os
import resource
import shutil
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, replace

from hack.bench.contenders.task import GO, READY, Prepare, Task, Timed, Timing


def main(module: str, task: str) -> int:
    prepare: Prepare = importlib.import_module(f"hack.bench.contenders.{module}").prepare
    parsed = Task.from_json(task)
    if parsed.processors:
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: parsed.processors])
    practised = _practise(prepare, parsed)
    timed = prepare(parsed)
    gc.collect()
    print(READY, practised, flush=True)
    if sys.stdin.readline().strip() != GO:
        return 1
    print(json.dumps(asdict(_measure(timed))), flush=True)
    sys.stdin.readline()  # its memory is looked at once more
    atexit._run_exitfuncs()  # servers that it started end with it
    # To give gigabytes back page by page is nobody's business here.
    os._exit(0)


def _practise(prepare: Prepare, task: Task) -> float:
    """The seconds that it took. What has run once is in memory, and not read from the disk while the clock runs."""
    began = time.monotonic()
    if task.practice:
        prepare(replace(task, source=task.practice))()
        shutil.rmtree(task.output, ignore_errors=True)
    return time.monotonic() - began


def _measure(timed: Timed) -> Timing:
    before, began = _processor_seconds(), time.monotonic()
    counted = timed()
    elapsed, after = time.monotonic() - began, _processor_seconds()
    user, system = after[0] - before[0], after[1] - before[1]
    if isinstance(counted, Mapping):
        return Timing(elapsed, user, system, steps=counted)
    return Timing(elapsed, user, system) if counted is None else Timing(counted, user, system, elapsed)


def _processor_seconds() -> tuple[float, float]:
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime for usage in usages), sum(usage.ru_stime for usage in usages)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
