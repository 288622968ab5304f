"""An environment in which `vllm` and the Neuron SDK are there, as stand-ins."""

import os
import sys
from collections.abc import Mapping
from pathlib import Path

from tests.paths import NEURON_STAND_INS, PROJECT, VLLM_STAND_INS

DEVICES = 16


def standin_environment(root: Path) -> Mapping[str, str]:
    """What has to be set. `root` takes the record of all calls, and the command `vllm`, which must run with this
    Python."""
    programs = root / "bin"
    programs.mkdir(exist_ok=True)
    command = programs / "vllm"
    command.write_text(
        f"#!{sys.executable}\nimport sys\nfrom vllm.entrypoints.cli import main\n"
        "if __name__ == '__main__':\n    sys.exit(main())\n"
    )
    command.chmod(0o755)
    packages = [NEURON_STAND_INS, VLLM_STAND_INS, PROJECT]
    return {
        "PATH": os.pathsep.join([str(programs), str(NEURON_STAND_INS / "bin"), os.environ["PATH"]]),
        "PYTHONPATH": os.pathsep.join(map(str, packages)),
        "NEURON_STANDIN_DEVICES": str(DEVICES),
        "NEURON_STANDIN_LOG": str(root / "calls.jsonl"),
        "NEURON_STANDIN_STATE": str(root / "failures"),
    }
