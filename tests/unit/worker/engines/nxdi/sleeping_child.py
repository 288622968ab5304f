"""Stands for `child` where only its life matters: it starts a compiler that never ends, or does what it is asked to."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

from neuronmodel_worker.engines.nxdi.child import die_with_parent

if __name__ == "__main__":
    instruction = json.loads(sys.stdin.buffer.readline())
    guard = die_with_parent()
    print(instruction.get("say", ""), flush=True)
    if "code" in instruction:
        os.kill(guard, signal.SIGKILL)
        sys.exit(instruction["code"])
    compiler = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"])
    Path(instruction["log"] + ".pid").write_text(f"{os.getpid()} {compiler.pid}")
    if "leaves" in instruction:
        os.kill(guard, signal.SIGKILL)
        sys.exit(0)
    compiler.wait()
