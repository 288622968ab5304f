"""What workers say of themselves: asked by pod IP while they run, read from the termination message when they ended.

A worker runs a user's image and answers over the pod network, so nothing of it is trusted: a bounded answer in bounded
time, no redirect, no decompression, and only a report that names the pod and the spec it was asked for.
"""

import asyncio
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

import aiohttp
from yarl import URL

from neuronmodel_api import names
from neuronmodel_api.reasons import Reason
from neuronmodel_api.report import MAX_REPORT_BYTES, Report, parse_report
from neuronmodel_operator.state.observed import Object

ANSWER_SECONDS: Final = 2.0
MAX_QUESTIONS: Final = 32
"""Under way at once, over all NeuronModels."""

CountError = Callable[[str], None]
"""Called with why a report was not had: NoAnswer, TooLong, NotAReport, AnotherPod."""


@dataclass(frozen=True)
class Reports:
    current: Mapping[str, Report]
    """By pod UID, of the container's current run."""
    former: Mapping[str, Report]
    """By pod UID, of the run before a restart."""


class AnotherPodError(ValueError):
    """A report of another pod, or of a pod made from another spec."""


def read(pod: Object, raw: str | bytes) -> Report:
    """Raises AnotherPodError, and ValueError for what is no report."""
    report = parse_report(raw)
    if report.pod_uid != pod["metadata"]["uid"] or report.spec_hash not in _spec_hashes(pod):
        raise AnotherPodError(f"pod {pod['metadata']['name']} has the report of another pod or spec")
    return report


class ReportClient:
    """Asks pods. One for all NeuronModels; what was heard is kept by each one's `ReportCache`."""

    def __init__(
        self, session: aiohttp.ClientSession, count_error: CountError = lambda why: None, port: int = names.ADMIN_PORT
    ) -> None:
        """`session` comes from `open_session`."""
        self._session = session
        self._count_error = count_error
        self._port = port
        self._questions = asyncio.Semaphore(MAX_QUESTIONS)

    async def ask(self, pod: Object) -> Report | None:
        """None: no answer that counts; why is in the metrics."""
        try:
            async with self._questions, asyncio.timeout(ANSWER_SECONDS):
                raw = await self._fetch(pod["status"]["podIP"])
        except (aiohttp.ClientError, OSError):  # TimeoutError is an OSError
            self._count_error(Reason.NO_ANSWER)
            return None
        if raw is None:
            self._count_error("TooLong")
            return None
        try:
            return read(pod, raw)
        except AnotherPodError:
            self._count_error("AnotherPod")
        except ValueError:
            self._count_error("NotAReport")
        return None

    async def _fetch(self, address: str) -> bytes | None:
        """None: longer than a report may be. Raises aiohttp.ClientError, TimeoutError."""
        url = URL.build(scheme="http", host=address, port=self._port, path="/status")
        async with self._session.get(url, allow_redirects=False) as response:
            response.raise_for_status()
            if response.status != 200:
                raise aiohttp.ClientPayloadError(f"answered {response.status}")
            body = bytearray()
            async for chunk in response.content.iter_chunked(16 * 1024):
                body += chunk
                if len(body) > MAX_REPORT_BYTES:
                    return None
            return bytes(body)


class ReportCache:
    """What the pods of one NeuronModel have said so far: a worker that is silent for a moment loses nothing."""

    def __init__(self, report_client: ReportClient) -> None:
        self._report_client = report_client
        self._answers: dict[tuple[str, str], Report] = {}
        """By pod UID and container ID: a restarted container has not said what its former run said."""

    async def collect(self, pods: Iterable[Object], askable: Collection[str], *, ask: bool) -> Reports:
        """Asks the running pods among `askable` when told to; ended containers' messages are read always."""
        runs = [(pod, status) for pod in pods if (status := _worker_status(pod)) is not None]
        running = {_run(pod, status): pod for pod, status in runs if "running" in status.get("state", {})}
        if ask:
            asked = {
                run: pod for run, pod in running.items() if run[0] in askable and pod.get("status", {}).get("podIP")
            }
            answers = await asyncio.gather(*(self._report_client.ask(pod) for pod in asked.values()))
            self._answers |= {run: report for run, report in zip(asked, answers, strict=True) if report is not None}
        self._forget({_run(pod, status) for pod, status in runs})
        return Reports(
            current={run[0]: report for run, report in self._answers.items()} | _messages(runs, "state"),
            former=_messages(runs, "lastState"),
        )

    def _forget(self, present: Collection[tuple[str, str]]) -> None:
        self._answers = {run: report for run, report in self._answers.items() if run in present}


def open_session() -> aiohttp.ClientSession:
    """For questions to pods: no proxy, no cookies, no connection kept, nothing unpacked."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(force_close=True, limit=MAX_QUESTIONS),
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(total=ANSWER_SECONDS),
        auto_decompress=False,
        trust_env=False,
    )


def _worker_status(pod: Object) -> Mapping[str, Any] | None:
    statuses = pod.get("status", {}).get("containerStatuses", ())
    return next((status for status in statuses if status["name"] == names.CONTAINER), None)


def _messages(runs: Iterable[tuple[Object, Mapping[str, Any]]], state: str) -> dict[str, Report]:
    """A container that ended by other means than the worker's own leaves no message, or one that is no report."""
    found: dict[str, Report] = {}
    for pod, status in runs:
        if message := status.get(state, {}).get("terminated", {}).get("message"):
            with suppress(ValueError):
                found[pod["metadata"]["uid"]] = read(pod, message)
    return found


def _run(pod: Object, status: Mapping[str, Any]) -> tuple[str, str]:
    return pod["metadata"]["uid"], status.get("containerID", "")


def _spec_hashes(pod: Object) -> set[str]:
    annotations = pod["metadata"].get("annotations", {})
    wanted = (names.ANNOTATION_INPUTS_HASH, names.ANNOTATION_TEMPLATE_HASH)
    return {annotations[name] for name in wanted if name in annotations}
