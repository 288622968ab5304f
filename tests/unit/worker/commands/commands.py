"""Runs the host commands as their users do, and looks at what they leave."""

import hashlib
import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from neuronmodel_worker.checkpoint import read_header
from neuronmodel_worker.cli import main
from neuronmodel_worker.run.signals import SIGNALS
from tests.generated import write_checkpoint
from tests.paths import PROJECT
from tests.unit.worker.sharding import small_source

PYTHON = (sys.executable, "-m", "neuronmodel_worker")
DTYPES = {"BF16": "bfloat16", "F16": "float16", "F32": "float32", "I32": "int32"}

# Root may do everything; without these two capabilities modes count for it as for others.
MODES_COUNT = () if os.geteuid() else ("setpriv", "--bounding-set=-dac_override,-dac_read_search")


@dataclass(frozen=True)
class Ended:
    code: int
    out: str
    err: str

    @property
    def sentence(self) -> str:
        """The one line that a failure says."""
        (line,) = self.err.splitlines()
        assert line.startswith("neuronmodel "), line
        return line


def neuronmodel(
    *arguments: object, stdin: str | bytes | None = None, prefix: tuple[str, ...] = (), **changes: str
) -> Ended:
    """As a process. `changes` are of its environment."""
    text = stdin.encode() if isinstance(stdin, str) else stdin
    command = [*prefix, *PYTHON, *map(str, arguments)]
    ended = subprocess.run(
        command, cwd=PROJECT, input=text, capture_output=True, env={**os.environ, **changes}, check=False
    )
    return Ended(ended.returncode, ended.stdout.decode(), ended.stderr.decode())


def here(*arguments: object) -> Ended:
    """In this process, which has everything imported already: ten times as fast."""
    out, err = io.StringIO(), io.StringIO()
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        with redirect_stdout(out), redirect_stderr(err):
            code = main([str(each) for each in arguments])
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    return Ended(code, out.getvalue(), err.getvalue())


@dataclass(frozen=True)
class Place:
    """A small checkpoint (175 kB), a file of fields with tp_degree 4, and room for shards."""

    root: Path

    @classmethod
    def make(cls, root: Path, **case: Any) -> "Place":
        place = cls(root)
        if case:
            write_checkpoint(place.model, case)
            place.configure(**case["neuron_config"])
        else:
            small_source(place.model, files=2)
            place.configure(tp_degree=4)
        return place

    @property
    def model(self) -> Path:
        return self.root / "model"

    @property
    def config(self) -> Path:
        return self.root / "neuron.json"

    @property
    def output(self) -> Path:
        return self.root / "output"

    @property
    def weights(self) -> Path:
        return self.output / "weights"

    @property
    def manifest(self) -> dict[str, Any]:
        content: dict[str, Any] = json.loads((self.output / "manifest.json").read_text())
        return content

    def configure(self, **fields: Any) -> None:
        self.config.write_text(json.dumps(fields))

    @property
    def source(self) -> tuple[object, ...]:
        return "--model", self.model, "--neuron-config", self.config

    @property
    def shard(self) -> tuple[object, ...]:
        return "shard", *self.source, "--output", self.output

    def sharded(self, *more: object) -> Ended:
        ended = here(*self.shard, *more)
        assert ended.code == 0, ended.err
        return ended

    def listing(self) -> list[str]:
        """Every file and folder of the output, hidden ones too."""
        return sorted(path.relative_to(self.output).as_posix() for path in self.output.rglob("*"))

    @contextmanager
    def paused(self) -> Iterator[subprocess.Popen[bytes]]:
        """A `shard` that has written some bytes and goes on when its standard input is closed."""
        command = [
            "env",
            "--default-signal",
            sys.executable,
            "-m",
            "tests.unit.worker.commands.paused",
            *map(str, self.shard),
        ]
        pipe = subprocess.PIPE
        with subprocess.Popen(command, cwd=PROJECT, stdin=pipe, stdout=pipe, stderr=pipe) as process:
            assert process.stdout
            assert process.stdout.readline() == b"writing\n"
            yield process
            process.kill()


def files(ranks: range) -> list[str]:
    """What a folder of these ranks holds."""
    return ["manifest.json", "weights", *sorted(f"weights/tp{rank}_sharded_checkpoint.safetensors" for rank in ranks)]


def described(weights: Path) -> dict[str, dict[str, list[Any]]]:
    """Rank files in a golden file's form."""
    return {path.name: _described(path) for path in weights.iterdir()}


def _described(path: Path) -> dict[str, list[Any]]:
    content, (_, tensors) = path.read_bytes(), read_header(path)
    return {
        name: [
            DTYPES[tensor.dtype],
            list(tensor.shape),
            hashlib.sha256(content[tensor.offset : tensor.offset + tensor.nbytes]).hexdigest()[:24],
        ]
        for name, tensor in tensors.items()
    }
