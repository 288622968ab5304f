"""Compiling and NxD Inference's own sharding, each in a process of its own, with its errors as failures."""

import errno
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from neuronmodel_worker.engines.interface import NoEngine
from neuronmodel_worker.engines.nxdi.child import COMPILE, SHARD
from neuronmodel_worker.engines.nxdi.child_process import KEPT_BYTES, ChildResult, run_child
from neuronmodel_worker.engines.nxdi.neuron_failures import (
    EXIT_70,
    OUT_OF_MEMORY,
    CompilerFailed,
    CompilerOutOfMemory,
    HostMemoryExhausted,
    ModelTypeWithoutApplication,
    classify,
    last_lines,
)
from neuronmodel_worker.failures import ArtifactsUnwritable, FlagsRefused, WorkerFailure
from neuronmodel_worker.io.disk import free_bytes
from neuronmodel_worker.io.temporary import within

log = logging.getLogger(__name__)

LOGS = "logs"
KEPT_LOGS = 32
FULL_BYTES = 1 << 20
KILLED = -9
CHILD_FAILURES = (FlagsRefused, ModelTypeWithoutApplication)
"""The failures that a child reports by their reason."""


@dataclass(frozen=True)
class ChildTask:
    """The task of one child. `name` is part of the log's name, for each model another one."""

    name: str
    model_type: str
    source: Path
    fields: Mapping[str, Any]
    directory: Path
    """The empty directory for the results."""


@dataclass(frozen=True)
class ChildRunner:
    """Runs children with a scratch directory and an environment, and keeps the logs of failed ones."""

    scratch: Path
    artifacts: Path
    environment: Mapping[str, str]

    def compile(self, task: ChildTask) -> None:
        """Raises CompilerFailed, CompilerOutOfMemory, FlagsRefused, ModelTypeWithoutApplication, NoEngine, OSError for
        a volume that is full."""
        with self._log_file(COMPILE, task) as log_file:
            ended = self._run(COMPILE, task, log_file)
            if _was_exit_70(ended):
                kept = self._keep(COMPILE, task, log_file)
                log.warning("the compiler ended with exit code 70, which may pass: once more; the log is %s", kept)
                _empty(task.directory)
                ended = self._run(COMPILE, task, log_file)
            if ended.code:
                raise self._compiler_failure(ended, self._keep(COMPILE, task, log_file))

    def shard(self, task: ChildTask) -> None:
        """Raises HostMemoryExhausted, FlagsRefused, ModelTypeWithoutApplication, NoEngine, NeuronRuntimeFailed, OSError
        for a volume that is full."""
        with self._log_file(SHARD, task) as log_file:
            ended = self._run(SHARD, task, log_file)
            if not ended.code:
                return
            kept = self._keep(SHARD, task, log_file)
            if _was_out_of_memory(ended):
                raise HostMemoryExhausted(
                    "The host's memory was not enough while NxD Inference sharded the checkpoint. Give the prepare "
                    f"Job more of it (spec.prepare.resources).{_log_details(kept, ended.output)}"
                )
            raise classify(ended.output)

    def _run(self, kind: str, task: ChildTask, log_file: Path) -> ChildResult:
        with tempfile.TemporaryDirectory(prefix=f"nxdi-{kind}-", dir=within(self.scratch)) as work:
            outcome = Path(work) / "outcome.json"
            instruction = {
                "task": kind,
                "model_type": task.model_type,
                "source": str(task.source),
                "fields": dict(task.fields),
                "directory": str(task.directory),
                "outcome": str(outcome),
            }
            ended = run_child(
                instruction, {**self.environment, **_work_directories(self.scratch, Path(work))}, log_file
            )
            if ended.code:
                self._raise_reported(ended, outcome, task.directory)
            return ended

    def _raise_reported(self, ended: ChildResult, outcome: Path, directory: Path) -> None:
        if outcome.exists():
            reported = _json_object(outcome)
            for failure in CHILD_FAILURES:
                if reported.get("reason") == failure.reason:
                    raise failure(reported.get("message", ""))
        if os.strerror(errno.ENOSPC) in ended.output:
            full = next((each for each in (directory, self.scratch) if free_bytes(each) < FULL_BYTES), directory)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(full))
        if _is_import_error(ended.output):
            raise NoEngine(
                "The image's Neuron SDK cannot be imported. Use AWS's image of one release, unchanged. Its last lines: "
                f"{last_lines(ended.output)}"
            )

    def _compiler_failure(self, ended: ChildResult, kept: Path | None) -> WorkerFailure:
        details = _log_details(kept, ended.output)
        if _was_out_of_memory(ended):
            return CompilerOutOfMemory(
                "The memory was not enough while the compiler ran. Give the prepare Job more of it "
                f"(spec.prepare.resources), or a bigger node.{details}"
            )
        again = " twice" if EXIT_70.search(ended.output) else ""
        return CompilerFailed(
            f"The Neuron compiler failed{again}. Try without the flags that are new, or with an image of another "
            f"release.{details}"
        )

    @contextmanager
    def _log_file(self, kind: str, task: ChildTask) -> Iterator[Path]:
        self.scratch.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="nxdi-log-", dir=within(self.scratch)) as directory:
            yield Path(directory) / f"{kind}-{task.name}.log"

    def _keep(self, kind: str, task: ChildTask, log_file: Path) -> Path | None:
        """Keep the log's last KEPT_BYTES on the artifacts volume. Returns their path; None where they cannot be
        written, which is only logged."""
        kept = self.artifacts / LOGS / f"{kind}-{task.name}.log"
        try:
            kept.parent.mkdir(exist_ok=True)
            kept.write_bytes(_tail(log_file))
            for old in sorted(kept.parent.glob("*.log"), key=lambda each: each.stat().st_mtime)[:-KEPT_LOGS]:
                old.unlink()
        except OSError as error:
            log.warning("the log was not kept: %s", ArtifactsUnwritable(kept, error))
            return None
        return kept


def _json_object(file: Path) -> dict[str, Any]:
    with suppress(OSError, ValueError):
        content = json.loads(file.read_bytes())
        if isinstance(content, dict):
            return content
    return {}


def _work_directories(scratch: Path, work: Path) -> dict[str, str]:
    """The environment that makes compilers work on the scratch volume, which is on NVMe if there is any."""
    temporary = work / "tmp"
    temporary.mkdir()
    cache = os.environ.get("NEURON_COMPILE_CACHE_URL") or str(scratch / "neuron-compile-cache")
    return {
        "TMPDIR": str(temporary),
        "BASE_COMPILE_WORK_DIR": f"{work / 'compiler'}/",
        "NEURON_COMPILE_CACHE_URL": cache,
        "PYTHONUNBUFFERED": "1",
    }


def _was_exit_70(ended: ChildResult) -> bool:
    return bool(ended.code) and not _was_out_of_memory(ended) and bool(EXIT_70.search(ended.output))


def _was_out_of_memory(ended: ChildResult) -> bool:
    return ended.code == KILLED or bool(OUT_OF_MEMORY.search(ended.output))


def _is_import_error(output: str) -> bool:
    """Whether the last line is an import error; earlier ones are of optional modules."""
    lines = [line for line in output.splitlines() if line.strip()]
    return bool(lines) and lines[-1].startswith(("ModuleNotFoundError:", "ImportError:"))


def _log_details(kept: Path | None, output: str) -> str:
    where = f" The log is kept as {kept}." if kept else ""
    return f"{where} Its last lines: {last_lines(output)}"


def _tail(file: Path) -> bytes:
    with file.open("rb") as stream:
        stream.seek(max(0, file.stat().st_size - KEPT_BYTES))
        return stream.read()


def _empty(directory: Path) -> None:
    for each in directory.iterdir():
        if each.is_dir() and not each.is_symlink():
            shutil.rmtree(each)
        else:
            each.unlink()
