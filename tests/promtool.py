"""Prometheus' own tool: it checks rules, and runs them on series that a test makes up."""

import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from hack.cluster.binaries import PROMTOOL, ensure_program
from hack.cluster.failures import ClusterError


def check_rules(rules: Path) -> None:
    """Fails where Prometheus would not load the file, or would warn of it."""
    _run("check", "rules", "--lint=all", "--lint-fatal", str(rules))


def run_cases(folder: Path, rules: dict[str, Any], tests: list[dict[str, Any]]) -> None:
    """Runs `tests`, in the format of `promtool test rules`, on groups of rules."""
    (folder / "rules.yaml").write_text(yaml.safe_dump(rules, width=10_000))
    document = {"rule_files": ["rules.yaml"], "evaluation_interval": "30s", "tests": tests}
    (folder / "tests.yaml").write_text(yaml.safe_dump(document, width=10_000))
    _run("test", "rules", str(folder / "tests.yaml"))


def _run(*arguments: str) -> None:
    done = subprocess.run([_program(), *arguments], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def _program() -> Path:
    """It is built where it is not there; what prevents that fails a test and skips none."""
    try:
        return ensure_program(PROMTOOL)
    except ClusterError as error:
        pytest.fail(f"promtool, which checks alerts and queries here, cannot be built: {error}")
