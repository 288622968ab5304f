"""`python -m hack.bench.contenders MODULE TASK`: prepare, say `ready`, wait for `go`, run, print the Timing as JSON."""

import gc
import importlib
import json
import os
import resource
import sys
import time
from dataclasses import asdict

from hack.bench.contenders.task import GO, READY, Task, Timed, Timing


def main(module: str, task: str) -> int:
    timed = importlib.import_module(f"hack.bench.contenders.{module}").prepare(Task.from_json(task))
    gc.collect()
    print(READY, flush=True)
    if sys.stdin.readline().strip() != GO:
        return 1
    print(json.dumps(asdict(_measure(timed))), flush=True)
    # To give gigabytes back page by page is nobody's business here.
    os._exit(0)


def _measure(timed: Timed) -> Timing:
    before, began = _processor_seconds(), time.monotonic()
    timed()
    seconds, after = time.monotonic() - began, _processor_seconds()
    return Timing(seconds, after[0] - before[0], after[1] - before[1])


def _processor_seconds() -> tuple[float, float]:
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime for usage in usages), sum(usage.ru_stime for usage in usages)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
