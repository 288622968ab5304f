"""What an operator's process takes, as its machine and its own metrics say."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

from tests.cluster.operator.process import OperatorProcess

TICKS: Final = os.sysconf("SC_CLK_TCK")
WRITES: Final = frozenset({"create", "apply", "patch", "replace", "delete"})

_OTHERS: Final = frozenset({"Lease", "SelfSubjectRulesReview", "SelfSubjectAccessReview"})
Calls = dict[tuple[str, str], float]
"""By verb and kind, whatever the answer."""


@dataclass(frozen=True)
class Measured:
    """At one moment."""

    megabytes: float
    peak_megabytes: float
    cpu_seconds: float
    calls: Calls
    passes: float
    overdue_seconds: float
    num_followed: float
    num_waiting: float
    mirrored_bytes: float
    mirrored_objects: float

    @property
    def num_calls(self) -> float:
        return sum(self.calls.values())

    @property
    def num_writes(self) -> float:
        """Without Leases, which are of namespaces, and reviews, which write nothing."""
        return sum(count for (verb, kind), count in self.calls.items() if verb in WRITES and kind not in _OTHERS)


async def measure(operator: OperatorProcess) -> Measured:
    """Raises aiohttp.ClientError and OSError while it is not there yet."""
    status, fields = _of_the_kernel(operator.pid)
    async with (
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=30)) as session,
        session.get(f"http://127.0.0.1:{operator.port}/metrics", raise_for_status=True) as answer,
    ):
        text = await answer.text()
    calls: Calls = {}
    single: dict[str, float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name == "neuronmodel_operator_api_calls_total":
                key = (sample.labels["verb"], sample.labels["kind"])
                calls[key] = calls.get(key, 0.0) + sample.value
            elif sample.name == "neuronmodel_operator_reconciles_total":
                single["passes"] = single.get("passes", 0.0) + sample.value
            elif sample.name.startswith("neuronmodel_operator_mirrored_"):
                single[sample.name] = single.get(sample.name, 0.0) + sample.value
            elif not sample.labels:
                single[sample.name] = sample.value
    return Measured(
        megabytes=_kibibytes(status["VmRSS"]) * 1024 / 1e6,
        peak_megabytes=_kibibytes(status["VmHWM"]) * 1024 / 1e6,
        cpu_seconds=(int(fields[11]) + int(fields[12])) / TICKS,
        calls=calls,
        passes=single.get("passes", 0.0),
        overdue_seconds=single["neuronmodel_operator_overdue_seconds"],
        num_followed=single["neuronmodel_operator_followed_models"],
        num_waiting=single["neuronmodel_operator_waiting_models"],
        mirrored_bytes=single.get("neuronmodel_operator_mirrored_bytes", 0.0),
        mirrored_objects=single.get("neuronmodel_operator_mirrored_objects", 0.0),
    )


def _of_the_kernel(pid: int) -> tuple[dict[str, str], list[str]]:
    """Its status by name, and its numbers from its state on."""
    proc = Path("/proc", str(pid))
    lines = (proc / "status").read_text().splitlines()
    status = dict(line.split(":", 1) for line in lines if ":" in line)
    return status, (proc / "stat").read_text().rpartition(")")[2].split()


def _kibibytes(text: str) -> int:
    return int(text.split()[0])


def difference(before: Calls, after: Calls) -> Calls:
    return {key: after[key] - before.get(key, 0.0) for key in after if after[key] != before.get(key, 0.0)}
