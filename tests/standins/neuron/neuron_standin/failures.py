"""Failures that are asked for in `NEURON_STANDIN_FAIL`, with the messages that public threads and pages give.

| name | what happens |
| --- | --- |
| `compiler-70` | neuronx-cc ends with exit code 70 |
| `compiler-killed` | neuronx-cc ends itself with signal 9, as the kernel does where memory is out |
| `compiler-f137` | neuronx-cc tells that its own child was killed, and ends with 70 |
| `compiler-1` | neuronx-cc ends with exit code 1 |
| `compiler-hangs` | neuronx-cc compiles until it is killed |
| `cores-busy` | another process holds the cores |
| `no-device` | the runtime finds no device when the model is loaded |
| `device-memory` | device memory is out |
| `host-memory`, `hardware`, `neff-version`, `runtime-unknown` | NRT status 11, 1201, 10 and 1 while loading |
| `logical-cores` | the runtime's logical cores are not those the model was compiled for (the message is ours) |
| `warmup` | the first execution fails |

`name:3` happens three times and not again; without a number it happens always.
"""

import fcntl
import os
import time
from pathlib import Path

INITIALIZATION = (
    "The PyTorch Neuron Runtime could not be initialized. Neuron Driver issues are logged to your system logs. "
    "See the Neuron Runtime's troubleshooting guide for help on this topic."
)


def happens(name: str) -> bool:
    """Whether it goes wrong this time; counted over all processes that share a state folder."""
    for wanted in os.environ.get("NEURON_STANDIN_FAIL", "").split(","):
        found, _, times = wanted.strip().partition(":")
        if found == name:
            return not times or _count(name) <= int(times)
    return False


def runtime_says(function: str, message: str, *, level: str = "ERROR") -> None:
    """A line of the runtime, which is a C library: to file descriptor 2, past sys.stderr."""
    stamp = time.strftime("%Y-%b-%d %H:%M:%S")
    process = os.getpid()
    os.write(2, f"{stamp}.000000 {process}:{process} {level:<7} {function:<43} {message}\n".encode())


def _count(name: str) -> int:
    folder = Path(os.environ.get("NEURON_STANDIN_STATE", "/tmp/neuron-standin"))
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / name).open("a+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        count = int(file.read() or 0) + 1
        file.truncate(0)
        file.write(str(count))
    return count
