"""NeuronModels that a real vLLM serves, in its own environment, as processes."""

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2 as httpx
from openai import OpenAI

from neuronmodel_api import names
from neuronmodel_api.report import Report
from neuronmodel_worker.serve.vllm.cpu.setup import defaults
from tests.ports import free_port
from tests.unit.worker.workers import Ended, Place, Worker, returned
from tests.waiting import PATIENCE_SECONDS, until

LENGTH = 256
PROMPTS = ("Hello", "The capital of France is", "naïve façade –")


@dataclass
class VllmPlace(Place):
    """Where the worker is what the environment of a vLLM has; what was prepared once is served again and again."""

    environment: Path = Path()
    prepared: dict[str, Report] = field(default_factory=dict)

    @property
    def variables(self) -> dict[str, str]:
        """Without this checkout's path: the worker is found as a package."""
        return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

    def start(self, command: str, before: str = "", **changes: Any) -> Worker:
        """Its output goes to the file `<command>.log`, `before` is a variable of its environment, NAME=value."""
        config, log = self.config(**changes), self.root / f"{command}.termination"
        log.unlink(missing_ok=True)
        environment = {**self.variables, names.ENV_CONFIG: json.dumps(config), names.ENV_POD_UID: "pod-1"}
        environment |= dict([before.split("=", 1)] if before else [])
        program = [str(self.environment / "bin" / "python"), "-m", "neuronmodel_worker", command]
        with self.log(command).open("w") as output:
            process = subprocess.Popen(
                [*program, "--termination-log", str(log)], env=environment, stderr=output, text=True
            )
        return Worker(process, config, log)

    def log(self, command: str = "serve") -> Path:
        return self.root / f"{command}.log"

    def prepare(self, **changes: Any) -> Report:
        changes = {name: value for name, value in changes.items() if name not in ("before", "extraArgs")}
        key = repr(sorted(changes.items()))
        if key not in self.prepared:
            with self.started("prepare", **changes) as worker:
                ended = worker.wait()
            assert ended.code == 0, self.log("prepare").read_text()
            self.prepared[key] = ended.report
        return self.prepared[key]

    def start_and_wait(self, before: str = "", **changes: Any) -> Ended:
        """A start that fails."""
        result = self.prepare(**changes).result
        assert result is not None
        with self.started("serve", before=before, **{**returned(result.to_json()), **changes}) as worker:
            return worker.wait()

    @contextmanager
    def own_loader(self, degree: int) -> Iterator[str]:
        """The URL of a vLLM that loads the source by itself, with the environment that the worker gives it."""
        port = free_port()
        command = [
            str(self.environment / "bin" / "vllm"), "serve", str(self.source), "--served-model-name", "small",
            "--host", "127.0.0.1", "--port", str(port), "--tensor-parallel-size", str(degree), "--dtype", "float32",
            "--max-model-len", str(LENGTH), "--max-num-seqs", "4", "--no-enable-prefix-caching", "--enforce-eager",
            "--block-size", "128", "--kv-cache-memory-bytes", str(100 << 20),
        ]  # fmt: skip
        with self.log("own").open("w") as output:
            process = subprocess.Popen(
                command,
                env={**defaults({"tp_degree": degree}), **self.variables, "VLLM_NO_USAGE_STATS": "1"},
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        try:
            until(lambda: self._is_up(process, port), "a vLLM of its own to answer", poll=0.2)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(PATIENCE_SECONDS)
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)

    def _is_up(self, process: "subprocess.Popen[bytes]", port: int) -> bool:
        assert process.poll() is None, self.log("own").read_text()[-4000:]
        with suppress(httpx.TransportError):
            return httpx.get(f"http://127.0.0.1:{port}/health").status_code == 200
        return False


def client(worker: Worker, key: str = "none") -> OpenAI:
    return OpenAI(base_url=worker.url, api_key=key, max_retries=0, timeout=PATIENCE_SECONDS)


def answers(url: str) -> list[Any]:
    """Greedy ones, with the probabilities of their tokens."""
    asked = OpenAI(base_url=url, api_key="none", max_retries=0, timeout=PATIENCE_SECONDS)
    choices = [
        asked.completions.create(model="small", prompt=prompt, max_tokens=20, temperature=0, logprobs=3).choices[0]
        for prompt in PROMPTS
    ]
    return [(choice.text, choice.logprobs.model_dump() if choice.logprobs else None) for choice in choices]


def descendants(process: int) -> dict[int, str]:
    """The processes that it started and those started by them, with their command lines."""
    parents: dict[int, int] = {}
    for directory in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            parents[int(directory.name)] = int((directory / "stat").read_text().rpartition(")")[2].split()[1])
    found: dict[int, str] = {}
    ancestors = {process}
    while new := {child for child, parent in parents.items() if parent in ancestors and child not in found}:
        found |= dict.fromkeys(new, "")
        ancestors = new
    return {number: _command_line(number) for number in found}


def _command_line(process: int) -> str:
    with suppress(OSError):
        return Path(f"/proc/{process}/cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
    return ""
