"""The engine's tests of the real model, once more on every older processor that this machine's can stand for.

A variable that no library here uses is reported by name and counts for nothing: see what is skipped after a run.
"""

import os
import subprocess
import sys
from collections.abc import Mapping

import pytest

from tests.levels import answers
from tests.levels.levels import LEVELS, LOWEST, TALKING, title, without_effect
from tests.paths import PROJECT
from tests.unit.worker.engines.real_model import needs_the_real_model

PYTEST = ("-m", "pytest", "--numprocesses=0", "-p", "no:cacheprovider", "--quiet")


def run(level: Mapping[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    command = (sys.executable, *arguments)
    environment = {**os.environ, **level}
    return subprocess.run(command, env=environment, cwd=PROJECT, capture_output=True, text=True, check=False)


def require_effect(level: Mapping[str, str]) -> None:
    completed = run({**level, **TALKING}, answers.__file__, "--multiply")
    assert completed.returncode == 0, completed.stderr
    if reason := without_effect(level, completed.stdout):
        pytest.skip(reason)


@needs_the_real_model
@pytest.mark.parametrize("level", LEVELS, ids=title)
def test_the_engine_computes_the_same(level: Mapping[str, str]) -> None:
    require_effect(level)
    if level is LOWEST:
        done = run(
            level, *PYTEST, "tests/unit/worker/engines/test_cpu.py", "tests/unit/worker/engines/test_real_model.py"
        )
    else:
        done = run(level, *PYTEST, "tests/unit/worker/engines/test_real_model.py")
    assert done.returncode == 0, done.stdout[-5000:]


OUTPUT = """MKL_VERBOSE oneMKL 2024.0 for Intel(R) Architecture processors
MKL_VERBOSE SGEMM(T,N,192,1,576) 1.26us CNR:{cnr} Dyn:1
CAPABILITY {capability}
"""


@pytest.mark.parametrize(
    ("level", "cnr", "capability", "reason"),
    [
        ({"MKL_CBWR": "COMPATIBLE"}, "COMPATIBLE", "AVX2", None),
        ({"MKL_CBWR": "COMPATIBLE"}, "OFF", "AVX2", "MKL does not go there on this machine"),
        ({"ATEN_CPU_CAPABILITY": "avx2"}, "OFF", "NO AVX", "PyTorch's own code does not go there on this machine"),
        ({"ONEDNN_MAX_CPU_ISA": "AVX2"}, "OFF", "AVX2", "oneDNN multiplies nothing here"),
        ({"OPENBLAS_CORETYPE": "Haswell"}, "OFF", "AVX2", "OpenBLAS multiplies nothing here"),
        (LOWEST, "OFF", "NO AVX", None),
    ],
)
def test_a_level_counts_where_a_library_says_that_it_is_there(
    level: Mapping[str, str], cnr: str, capability: str, reason: str | None
) -> None:
    found = without_effect(level, OUTPUT.format(cnr=cnr, capability=capability))
    assert (found is None) == (reason is None)
    assert (reason or "") in (found or "")


@pytest.mark.parametrize("answer", answers.ANSWERS, ids=lambda answer: str(answer.text)[:30])
def test_no_golden_answer_is_a_near_tie(answer: answers.Answer) -> None:
    assert min(answer.distances) > answers.CLOSEST
    assert len(answer.tokens) == len(answer.distances)
