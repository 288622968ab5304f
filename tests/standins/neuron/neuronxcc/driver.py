"""`neuronx-cc compile --framework=XLA GRAPH --output NEFF …`: it copies, or fails as it was asked to."""

import argparse
import os
import shutil
import signal
import sys
import threading
from pathlib import Path

from neuron_standin.failures import happens
from neuron_standin.record import record

INTERNAL_ERROR = 70
KILLED = (
    "[F137] neuronx-cc was forcibly killed - This most commonly occurs due to insufficient system memory. "
    "Using a smaller data type, dimensions, batch size, or a larger instance type may help."
)
ABORTED = (
    "[F134] neuronx-cc terminated abnormally - Please open a support ticket at "
    "https://github.com/aws-neuron/aws-neuron-sdk/issues/new"
)


def main() -> int:
    parser = argparse.ArgumentParser("neuronx-cc", allow_abbrev=False)
    parser.add_argument("command")
    parser.add_argument("graph", type=Path)
    parser.add_argument("--framework")
    parser.add_argument("--output", type=Path, required=True)
    options, others = parser.parse_known_args()
    record("neuronx-cc", arguments=sys.argv[1:], workdir=str(Path.cwd()), flags=os.environ.get("NEURON_CC_FLAGS"))
    print(f"neuronx-cc: compiling {options.graph.name} with {' '.join(others)}", flush=True)
    if happens("compiler-hangs"):
        threading.Event().wait()
    if happens("compiler-killed"):
        os.kill(os.getpid(), signal.SIGKILL)
    for name, message, code in (
        ("compiler-f137", KILLED, INTERNAL_ERROR),
        ("compiler-70", ABORTED, INTERNAL_ERROR),
        ("compiler-1", "[NCC_EVRF029] Operation sort is not supported on trn2", 1),
    ):
        if happens(name):
            print(f"ERROR {os.getpid()} [neuronx-cc]: An Internal Compiler Error has occurred", file=sys.stderr)
            print(message, file=sys.stderr, flush=True)
            return code
    shutil.copyfile(options.graph, options.output)
    print("Compiler status PASS", flush=True)
    return 0
