"""Faults of the cluster itself with real kubelets and real workers: tests/e2e/test_cluster_faults.py, as rows."""

import asyncio
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from collections import Counter
from pathlib import Path
from typing import Final

from tests.campaign.campaign import Say
from tests.campaign.faults_tried import Pattern
from tests.campaign.table import Row
from tests.paths import PROJECT

TESTS: Final = "tests/e2e/test_cluster_faults.py"


async def try_on_real_nodes(say: Say) -> list[Row]:
    """Runs them, with their output, and returns a row for each test."""
    say(f"pytest {TESTS}")
    with tempfile.TemporaryDirectory(prefix="campaign-") as folder:
        results = Path(folder, "results.xml")
        command = (sys.executable, "-m", "pytest", TESTS, "-m", "campaign", f"--junitxml={results}")
        process = await asyncio.create_subprocess_exec(*command, cwd=PROJECT)
        await process.wait()
        return await asyncio.to_thread(_read, results)


def _read(results: Path) -> list[Row]:
    return rows_of(results.read_text()) if results.exists() else [Row(Pattern.CLUSTER, f"{TESTS} ran", 1, 1)]


def rows_of(results: str) -> list[Row]:
    """From JUnit's XML; tests with parameters are one row."""
    tried: Counter[str] = Counter()
    fell: Counter[str] = Counter()
    for case in ElementTree.fromstring(results).iter("testcase"):
        name = case.attrib["name"].partition("[")[0].removeprefix("test_").replace("_", " ")
        if case.find("skipped") is None:
            tried[name] += 1
            fell[name] += any(case.find(kind) is not None for kind in ("failure", "error"))
    return [Row(Pattern.CLUSTER, f"{name} (real nodes)", count, fell[name]) for name, count in tried.items()]
