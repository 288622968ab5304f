"""Reports of workers: fetched by pod IP while they run, read from the termination message when they have ended.

A worker runs a user's image and answers over the pod network, so nothing in it is trusted: the answer is bounded in
size and time, without redirects or decompression, and a report counts only if it names the pod and the spec that it was
requested for.
"""

import asyncio
import hashlib
import zlib
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
"""Concurrent requests, for all NeuronModels together."""

CountError = Callable[[str], None]
"""Called with the reason why there is no report: NoAnswer, TooLong, NotAReport, AnotherPod."""


@dataclass(frozen=True)
class Reports:
    current: Mapping[str, Report]
    """By pod UID, from the container's current run."""
    former: Mapping[str, Report]
    """By pod UID, from the run before a restart."""


class AnotherPodError(ValueError):
    """The report names another pod, or was made from another spec."""


def read(pod: Object, raw: str | bytes) -> Report:
    """Returns the parsed report. Raises AnotherPodError, and ValueError for what is no report."""
    report = parse_report(raw)
    if report.pod_uid != pod["metadata"]["uid"] or report.spec_hash not in _spec_hashes(pod):
        raise AnotherPodError(f"pod {pod['metadata']['name']} has the report of another pod or spec")
    return report


class ReportClient:
    """Fetches reports from pods. There is one for all NeuronModels; each NeuronModel's `ReportCache` keeps the
    answers."""

    def __init__(
        self, session: aiohttp.ClientSession, count_error: CountError = lambda why: None, port: int = names.ADMIN_PORT
    ) -> None:
        """`session` comes from `open_session`."""
        self._session = session
        self._count_error = count_error
        self._port = port
        self._questions = asyncio.Semaphore(MAX_QUESTIONS)

    async def ask(self, pod: Object) -> bytes | None:
        """Returns a valid report as it was sent; None if there is none, and the metrics have the reason."""
        raw = await self.fetch(pod["status"]["podIP"])
        if raw is None:
            return None
        try:
            read(pod, raw)
        except AnotherPodError:
            self._count_error("AnotherPod")
        except ValueError:
            self._count_error("NotAReport")
        else:
            return raw
        return None

    async def fetch(self, address: str) -> bytes | None:
        """Returns an answer that nobody has looked into; None if there is none, and the metrics have the reason."""
        try:
            async with self._questions, asyncio.timeout(ANSWER_SECONDS):
                raw = await self._fetch(address)
        except (aiohttp.ClientError, OSError):  # TimeoutError is an OSError
            self._count_error(Reason.NO_ANSWER)
            return None
        if raw is None:
            self._count_error("TooLong")
        return raw

    async def _fetch(self, address: str) -> bytes | None:
        """Returns None if the answer is longer than a report may be. Raises aiohttp.ClientError and TimeoutError."""
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


Run = tuple[str, str]
"""Pod UID and container ID: a restarted container does not inherit the report of its former run."""


@dataclass(frozen=True, slots=True)
class _Answer:
    """Thousands of them are kept for a long time, so it is as small as it can be."""

    address: str
    digest: bytes
    packed: bytes

    @property
    def report(self) -> Report:
        return parse_report(zlib.decompress(self.packed))


class ReportCache:
    """The latest reports of one NeuronModel's pods: a worker that does not answer for a moment loses nothing."""

    def __init__(self, report_client: ReportClient) -> None:
        self._report_client = report_client
        self._answers: dict[Run, _Answer] = {}

    async def collect(self, pods: Iterable[Object], askable: Collection[str], *, ask: bool) -> Reports:
        """Fetches reports from the running pods among `askable` if `ask` is true, and returns all known reports;
        termination messages of ended containers are always read."""
        runs = [(pod, status) for pod in pods if (status := _worker_status(pod)) is not None]
        running = {_run(pod, status): pod for pod, status in runs if "running" in status.get("state", {})}
        if ask:
            asked = {
                run: pod for run, pod in running.items() if run[0] in askable and pod.get("status", {}).get("podIP")
            }
            answers = await asyncio.gather(*(self._report_client.ask(pod) for pod in asked.values()))
            self._answers |= {
                run: _Answer(pod["status"]["podIP"], _digest(raw), zlib.compress(raw))
                for (run, pod), raw in zip(asked.items(), answers, strict=True)
                if raw is not None
            }
        present = {_run(pod, status) for pod, status in runs}
        self._answers = {run: answer for run, answer in self._answers.items() if run in present}
        # While a container waits to be started again, its latest run is the last one, which said most in the end.
        waiting = [(pod, status) for pod, status in runs if "waiting" in status.get("state", {})]
        return Reports(
            current={run[0]: answer.report for run, answer in self._answers.items()}
            | _messages(waiting, "lastState")
            | _messages(runs, "state"),
            former=_messages(runs, "lastState"),
        )

    @property
    def has_answers(self) -> bool:
        return bool(self._answers)

    async def has_news(self) -> bool:
        """Asks those that have answered before whether their reports are still the same, without looking into them. One
        that does not answer has none: that its pod is gone or not ready, an event says."""
        known = list(self._answers.values())
        raws = await asyncio.gather(*(self._report_client.fetch(answer.address) for answer in known))
        return any(raw is not None and _digest(raw) != answer.digest for answer, raw in zip(known, raws, strict=True))


def _digest(raw: bytes) -> bytes:
    return hashlib.blake2b(raw, digest_size=8).digest()


def open_session() -> aiohttp.ClientSession:
    """Returns the session for requests to pods: no proxy, no cookies, no kept connections, no decompression."""
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
    """Reads the reports in termination messages. A container that was killed leaves no message, or one that is no
    report."""
    found: dict[str, Report] = {}
    for pod, status in runs:
        if message := status.get(state, {}).get("terminated", {}).get("message"):
            with suppress(ValueError):
                found[pod["metadata"]["uid"]] = read(pod, message)
    return found


def _run(pod: Object, status: Mapping[str, Any]) -> Run:
    return pod["metadata"]["uid"], status.get("containerID", "")


def _spec_hashes(pod: Object) -> set[str]:
    annotations = pod["metadata"].get("annotations", {})
    wanted = (names.ANNOTATION_INPUTS_HASH, names.ANNOTATION_TEMPLATE_HASH)
    return {annotations[name] for name in wanted if name in annotations}
