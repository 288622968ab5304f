"""Compiles the worker's native library into the wheel, with whatever C compiler there is.

Without a compiler the wheel has no library, and numpy does the same, two to three times slower. Who builds an image
sets NEURONMODEL_NATIVE=required: then that is an error. Nothing of Python is compiled in: one library serves every
Python.
"""

import os
import shutil
import subprocess
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

FOLDER = Path("worker/neuronmodel_worker/stream/native")
FLAGS = ("-std=c11", "-O3", "-shared", "-fPIC")


class NativeLibrary(BuildHookInterface[Any]):  # type: ignore[misc]  # hatchling builds, and is not installed
    """Adds the compiled library to what is packaged."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        source = Path(self.root, FOLDER, "transpose.c")
        if self.target_name != "wheel" or not source.exists():
            return  # the operator's image has none of the worker's code
        library = source.with_suffix(".so")
        if (problem := _compile(source, library)) is not None:
            library.unlink(missing_ok=True)
            if os.environ.get("NEURONMODEL_NATIVE") == "required":
                raise RuntimeError(f"{source} was not compiled: {problem}")
            self.app.display_warning(f"{source} was not compiled; numpy does the same, slower: {problem}")
            return
        build_data["artifacts"].append(str(library.relative_to(self.root)))
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{sysconfig.get_platform().replace('-', '_').replace('.', '_')}"


def _compile(source: Path, library: Path) -> str | None:
    """Returns what went wrong, if anything. The library is replaced in one step: another process may have it open."""
    compiler = os.environ.get("CC") or next(filter(shutil.which, ("cc", "gcc", "clang")), None)
    if compiler is None:
        return "there is no C compiler (cc, gcc or clang); CC may name one"
    unfinished = library.with_name(f".{library.name}.{os.getpid()}")
    try:
        command = [*compiler.split(), *FLAGS, "-o", str(unfinished), str(source)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            return done.stderr.strip() or f"{compiler} exited with {done.returncode}"
        unfinished.replace(library)
    except OSError as error:
        return str(error)
    finally:
        unfinished.unlink(missing_ok=True)
    return None
