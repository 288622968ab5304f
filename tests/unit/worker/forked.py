"""Workers as processes of their own that need not import anything.

Two thirds of a short start are imports of PyTorch and transformers. Here one process imports them once, and each worker
is forked from it: what it does from then on, signals, ports, files and its last report, is what a worker does. How one
really begins, from its first line, is in test_cli.py.
"""

import logging
import os
from collections.abc import Mapping
from pathlib import Path

from neuronmodel_api.report import Stage
from neuronmodel_worker.cli import pod_command
from neuronmodel_worker.report.clock import FirstLine
from neuronmodel_worker.run.runner import run_command
from tests.forked import ForkedProcess, preload

preload("tests.unit.worker.preloaded")


def forked_worker(command: str, environment: Mapping[str, str], termination_log: Path, stderr: Path) -> ForkedProcess:
    return ForkedProcess(_run, (command, termination_log), environment, stderr)


def _run(command: str, termination_log: Path) -> int:
    """As neuronmodel_worker.cli does it."""
    first_line = FirstLine.now()
    stage = Stage[command.upper()]
    code = run_command(stage, lambda: pod_command(command), None, termination_log, first_line, os.environ)
    logging.shutdown()
    return code
