"""`make vllm`: the tests in tests/vllm against real vLLMs for processors, one version after the other.

`python -m hack.vllm lock` resolves the versions anew; further arguments of `python -m hack.vllm` are pytest's.
"""

import argparse
import os
import shutil
import subprocess
import sys
from typing import Final

from hack.cluster.layout import PROJECT
from hack.cluster.model import ensure_model
from hack.vllm.environments import ensure_environment, environment_of, make_lock
from hack.vllm.versions import VERSIONS, Version, version_named

NEEDED_BYTES: Final = 12 << 30
"""What an environment takes, and what is unpacked and served beside it."""


def main(arguments: list[str]) -> int:
    if arguments == ["lock"]:
        for version in VERSIONS:
            make_lock(version)
        return 0
    parser = argparse.ArgumentParser(prog="python -m hack.vllm", description=__doc__)
    parser.add_argument("--version", action="append", choices=[version.name for version in VERSIONS])
    options, of_pytest = parser.parse_known_args(arguments)
    chosen = [version_named(name) for name in options.version or [version.name for version in VERSIONS]]
    model = ensure_model()
    failed = []
    for version in chosen:
        _make_room(version)
        print(f"vLLM {version.name}", flush=True)
        environment = {
            **os.environ,
            "NEURONMODEL_TEST_VLLM": str(ensure_environment(version)),
            "NEURONMODEL_TEST_MODEL": str(model),
        }
        command = [sys.executable, "-m", "pytest", "tests/vllm", *of_pytest]
        if subprocess.run(command, cwd=PROJECT, env=environment, check=False).returncode:
            failed.append(version.name)
    if failed:
        print(f"make vllm: failed with {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def _make_room(version: Version) -> None:
    """Removes the environments of other versions if the disk is too full for one more."""
    parent = environment_of(version).parent
    parent.mkdir(parents=True, exist_ok=True)
    for other in VERSIONS:
        if other != version and shutil.disk_usage(parent).free < NEEDED_BYTES:
            shutil.rmtree(environment_of(other), ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
