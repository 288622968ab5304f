"""vLLM's processes: they end with the worker, the worker hears why they ended, and their output is in its log."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from neuronmodel_api.config import WorkerConfig
from neuronmodel_api.report import Stage
from neuronmodel_worker.engines import DevicesInUse, NoEngine
from neuronmodel_worker.report.clock import FirstLine, StartClock
from neuronmodel_worker.run.context import Run
from neuronmodel_worker.serve.vllm import process, serve
from neuronmodel_worker.serve.vllm.cpu.setup import CpuSetup
from neuronmodel_worker.serve.vllm.neuron.setup import NeuronSetup
from neuronmodel_worker.serve.vllm.process import VllmProcess, running, vllm_program
from neuronmodel_worker.serve.vllm.serve import ServerEnded, exit_failure, free_port
from neuronmodel_worker.serve.vllm.setup import VllmSetup
from tests.waiting import until


def python(program: str) -> list[str]:
    return [sys.executable, "-c", program]


def lives(number: int) -> bool:
    """A zombie lives no more."""
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_its_output_stands_in_the_log(capfd: pytest.CaptureFixture[str]) -> None:
    program = "import sys; print('printed', flush=True); sys.stderr.write('warned\\n')"
    with running(python(program), os.environ) as child:
        until(lambda: child.exit_code is not None)
        assert child.tail() == "printed\nwarned\n"
    assert capfd.readouterr().err == "printed\nwarned\n"


def test_only_the_last_lines_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "TAIL_LINES", 3)
    with running(python("print(*range(10), sep='\\n')"), os.environ) as child:
        until(lambda: child.exit_code is not None)
        assert child.tail() == "7\n8\n9\n"


STUBBORN = """
import os, signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
number = os.fork()
if number:
    print(number, flush=True)
time.sleep(3600)
"""


def test_nothing_of_it_outlives_the_worker_s_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "STOP_SECONDS", 0.2)
    with running(python(STUBBORN), os.environ) as child:
        until(lambda: child.tail().endswith("\n"))
        number = int(child.tail())
        assert lives(number)
    assert child.exit_code == -signal.SIGKILL
    until(lambda: not lives(number))


def test_it_may_end_by_itself_when_it_is_asked_to() -> None:
    program = (
        "import signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: sys.exit(3)); print('up', flush=True); "
        "time.sleep(3600)"
    )
    with running(python(program), os.environ) as child:
        until(lambda: child.tail() == "up\n")
    assert child.exit_code == 3


WORKER = """
import os, sys, time
from neuronmodel_worker.serve.vllm.process import VllmProcess
code = "import os, time; print(os.getpid(), flush=True); time.sleep(3600)"
child = VllmProcess([sys.executable, "-c", code], os.environ)
time.sleep(3600)
"""


def test_it_ends_when_the_worker_is_killed() -> None:
    with subprocess.Popen(python(WORKER), stderr=subprocess.PIPE, text=True) as worker:
        assert worker.stderr is not None
        number = int(worker.stderr.readline())
        assert lives(number)
        worker.kill()
        until(lambda: not lives(number))


def test_an_image_without_the_command_is_reported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(NoEngine, match="no command `vllm`, though the package is there"):
        vllm_program()


def test_vllm_is_found_on_the_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program = tmp_path / "vllm"
    program.touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert vllm_program() == str(program)


@pytest.mark.parametrize(("of_kernel", "ports"), [("10004 60999", {10_001, 10_003}), ("1024 65535", None)])
def test_its_port_is_none_that_connections_are_given(
    of_kernel: str, ports: set[int] | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Where the kernel leaves any."""
    (tmp_path / "range").write_text(of_kernel)
    monkeypatch.setattr(serve, "EPHEMERAL_PORT_RANGE", tmp_path / "range")
    port = free_port({10_000, 10_002})
    assert port in ports if ports else port > 0


@pytest.fixture
def job() -> Run:
    config = WorkerConfig(namespace="team", name="small", uid="u", spec_hash="h")
    return Run(config, StartClock(Stage.SERVE, FirstLine.now()))


@pytest.mark.parametrize("setup", [CpuSetup, NeuronSetup])
def test_its_exit_code_and_last_lines_are_the_reason(setup: Callable[[Run], VllmSetup], job: Run) -> None:
    child = run("import sys; print('vllm: error: unrecognized arguments: --banana'); sys.exit(2)")
    failure = exit_failure(child, setup(job))
    assert isinstance(failure, ServerEnded)
    assert "exit code 2" in str(failure)
    assert "unrecognized arguments: --banana" in str(failure)


def test_of_a_long_line_the_beginning_is_told_too(job: Run) -> None:
    """So vLLM refuses a model: with all that it knows behind."""
    line = "Value error, Model architectures ['NoSuch'] are not supported for now. Supported: " + "'Other', " * 500
    failure = exit_failure(run(f"import sys; print({line!r}); print('see https://errors'); sys.exit(1)"), CpuSetup(job))
    assert "Model architectures ['NoSuch'] are not supported" in str(failure)


def test_death_by_a_signal_is_reported_as_one(job: Run) -> None:
    assert "by signal 9" in str(exit_failure(run("import os; os.kill(os.getpid(), 9)"), CpuSetup(job)))


def test_the_runtimes_message_amid_other_lines_is_the_reason(job: Run) -> None:
    message = "NRT:nrt_allocate_neuron_cores NeuronCore(s) not available - Requested:64 Available:0"
    program = f"import sys; print({message!r}); print('Traceback', *range(20), sep='\\n'); sys.exit(1)"
    assert isinstance(exit_failure(run(program), NeuronSetup(job)), DevicesInUse)


def run(program: str) -> VllmProcess:
    child = VllmProcess(python(program), os.environ)
    until(lambda: child.exit_code is not None)
    child.stop()
    return child
