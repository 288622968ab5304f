"""`make test` runs everything in two lanes and names what failed; its steps are stand-ins here."""

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import pytest

from hack import verify

TOOL = """#!/bin/sh
echo "$(basename $0) $@" | tee -a {steps}
case "$*" in {fails}) echo "this is why"; exit 1;; esac
"""
CLUSTER = """
import sys
print("cluster", *sys.argv[1:], flush=True)
open({steps!r}, "a").write(" ".join(("cluster", *sys.argv[1:])) + "\\n")
sys.exit({codes}.get(sys.argv[1], 0))
"""


@dataclass(frozen=True)
class Run:
    code: int
    printed: str
    complained: str
    steps: list[str]


def run(project: Path, codes: Mapping[str, int] = MappingProxyType({}), *, fails: str = "-", ci: str = "true") -> Run:
    """`fails`: the arguments of a tool that fails; `codes`: what commands of the cluster exit with."""
    steps = project / "steps"
    for name in ("ruff", "mypy", "lint-imports", "pytest"):
        tool = project / ".venv/bin" / name
        tool.parent.mkdir(parents=True, exist_ok=True)
        tool.write_text(TOOL.format(steps=steps, fails=fails))
        tool.chmod(0o755)
    (project / "hack/cluster").mkdir(parents=True)
    shutil.copy(verify.__file__, project / "hack/verify.py")
    (project / "hack/cluster/__main__.py").write_text(CLUSTER.format(steps=str(steps), codes=dict(codes)))
    command = (sys.executable, "-m", "hack.verify")
    # By PYTHONPATH, the real one would be found before this folder's, and run everything.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        command, cwd=project, env={**environment, "CI": ci}, capture_output=True, text=True, check=False
    )
    return Run(done.returncode, done.stdout, done.stderr, [line.strip() for line in steps.read_text().splitlines()])


def test_everything_is_run_and_the_cluster_is_left_as_it_was(tmp_path: Path) -> None:
    done = run(tmp_path)
    assert (done.code, done.complained) == (0, "")
    pytests = [verify.ON_THE_API_SERVER, verify.END_TO_END, *verify.UNIT]
    wanted = [" ".join(command) for command in (*verify.LINT, *pytests)]
    assert {step for step in done.steps if not step.startswith("cluster ")} == set(wanted)
    made = {f"cluster {what}" for what in ("up", "model", *verify.PROGRAMS, f"images {' '.join(verify.IMAGES)}")}
    assert made <= set(done.steps)
    assert "cluster down" not in done.steps
    assert all(step in done.printed for step in done.steps if step != "cluster status --quiet")


def test_a_cluster_that_was_not_there_is_ended(tmp_path: Path) -> None:
    done = run(tmp_path, {"status": 1})
    assert done.code == 0
    assert done.steps[-1] == "cluster down"


@pytest.mark.parametrize("command", [*verify.UNIT, verify.ON_THE_API_SERVER, verify.END_TO_END], ids=" ".join)
def test_a_step_that_fails_is_named_and_the_others_are_run(tmp_path: Path, command: tuple[str, ...]) -> None:
    arguments = " ".join(command[1:])
    done = run(tmp_path, fails=f'"{arguments}"')
    assert done.code == 1
    assert "this is why" in done.printed
    assert f"`{' '.join(command)}` exited with 1" in done.printed + done.complained
    assert sum(step.startswith("pytest") for step in done.steps) == 4


def test_nothing_is_tested_where_lint_fails(tmp_path: Path) -> None:
    done = run(tmp_path, fails='"format --check ."')
    assert done.code == 1
    assert "`ruff format --check .` exited with 1" in done.complained
    assert "mypy" not in done.steps


@pytest.mark.parametrize(("command", "left"), [("up", 2), ("images", 3)])
def test_without_a_cluster_or_images_what_needs_them_fails(tmp_path: Path, command: str, left: int) -> None:
    done = run(tmp_path, {command: 1})
    assert done.code == 1
    assert "exit code 1" in done.printed
    assert sum(step.startswith("pytest") for step in done.steps) == left


@pytest.mark.parametrize("ci", ["true", ""])
@pytest.mark.parametrize("program", verify.PROGRAMS)
def test_a_program_of_the_tests_is_left_out_nowhere(tmp_path: Path, program: str, ci: str) -> None:
    done = run(tmp_path, {program: verify.CANNOT_RUN_HERE}, ci=ci)
    assert done.code == 1
    assert f"`hack.cluster {program}` exited with 3" in done.complained
    assert sum(step.startswith("pytest") for step in done.steps) == 4


@pytest.mark.parametrize(("ci", "code"), [("true", 1), ("", 0)])
def test_where_none_can_run_the_tests_on_it_are_left_out_but_never_in_ci(tmp_path: Path, ci: str, code: int) -> None:
    done = run(tmp_path, {"up": verify.CANNOT_RUN_HERE}, ci=ci)
    assert done.code == code
    assert ("LEFT OUT" in done.printed) == (code == 0)
    assert sum(step.startswith("pytest") for step in done.steps) == 2
