"""The virtual environment of a vLLM: made from its lock, once, with this project in it."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from hack.cluster.layout import PROJECT
from hack.vllm.versions import Version

UV: Final = PROJECT / ".venv" / "bin" / "uv"
PYTHON_VERSION: Final = "3.11"
PLATFORM: Final = "x86_64-manylinux_2_28"
MARKER: Final = "installed"
"""A copy of the lock that an environment was made from."""


def directory() -> Path:
    """Where environments are kept; each takes six gigabytes."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(os.environ.get("NEURONMODEL_VLLM_DIR") or cache / "neuronmodel" / "vllm")


def environment_of(version: Version) -> Path:
    return directory() / version.name


def make_lock(version: Version) -> None:
    """Resolves the version with what the worker needs beside it: names, versions and hashes, no index."""
    with tempfile.TemporaryDirectory() as scratch:
        requirements, overrides = Path(scratch) / "requirements.in", Path(scratch) / "overrides.in"
        requirements.write_text("".join(f"{line}\n" for line in version.requirements))
        overrides.write_text("".join(f"{line}\n" for line in version.overrides))
        _run(
            [str(UV), "pip", "compile", "--quiet", "--python-version", PYTHON_VERSION, "--python-platform", PLATFORM],
            ["--generate-hashes", "--no-emit-index-url", "--no-header", "--no-annotate", "--extra", "neuron"],
            ["--override", str(overrides), "pyproject.toml", str(requirements), "--output-file", str(version.lock)],
        )


def ensure_environment(version: Version) -> Path:
    """Returns the folder of the environment, made anew if its lock has changed. The project in it is this checkout."""
    environment = environment_of(version)
    python, marker = environment / "bin" / "python", environment / MARKER
    if not marker.exists() or marker.read_bytes() != version.lock.read_bytes():
        shutil.rmtree(environment, ignore_errors=True)
        _run([sys.executable, "-m", "venv", str(environment)])
        # With bytecode: a vLLM's process imports thousands of modules, and starts several.
        sync = [str(UV), "pip", "sync", "--quiet", "--compile-bytecode", "--python", str(python), "--require-hashes"]
        _run(sync, [str(version.lock)])
        name_it_vllm(environment, version)
        shutil.copyfile(version.lock, marker)
    _run([str(UV), "pip", "install", "--quiet", "--python", str(python), "--no-deps", "--editable", str(PROJECT)])
    return environment


def name_it_vllm(environment: Path, version: Version) -> None:
    """vLLM asks for the version of a distribution `vllm`, and computes on processors where that has `cpu` in it; the
    wheel's own distribution has another name."""
    packages = environment / "lib" / f"python{PYTHON_VERSION}" / "site-packages"
    metadata = packages / f"vllm-{version.name}+cpu.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {version.name}+cpu\n")


def _run(*parts: Sequence[str]) -> None:
    subprocess.run([word for part in parts for word in part], cwd=PROJECT, check=True)
