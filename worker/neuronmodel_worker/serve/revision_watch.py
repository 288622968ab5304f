"""Asks now and then, while the model answers, whether a repository's revision or a bucket's state has moved.

A worker goes on serving what was prepared whatever the answer: it is for `UpdateAvailable`. The first question comes
after the interval, as a start that has what it needs asks for nothing.
"""

import logging
import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from neuronmodel_api.conditions import ConditionType
from neuronmodel_api.reasons import Reason
from neuronmodel_api.sources import NetworkSourceConfig
from neuronmodel_worker.failures import WorkerFailure
from neuronmodel_worker.report.clock import StartClock
from neuronmodel_worker.sources.network import current_revision

if TYPE_CHECKING:
    from neuronmodel_worker.sources.remote.retries import RetryBudget

log = logging.getLogger(__name__)

OF_THE_SERVER: Final = tuple(reason for reason in Reason if reason.condition is ConditionType.SOURCE_RESOLVED)
"""Reasons of notes that an answer proves wrong."""


@contextmanager
def watching_revision(source: NetworkSourceConfig | None, clock: StartClock) -> Iterator[None]:
    """Watches the revision in a thread as long as the context lasts, if the source has one that may move."""
    if source is None or source.pinned is None or source.check_seconds is None:
        yield
        return
    watch = RevisionWatch(source, source.check_seconds, clock)
    watch.start()
    try:
        yield
    finally:
        watch.stop()


class RevisionWatch:
    """Puts the revision that the source is at into the report, or a note on why that is not known."""

    def __init__(self, source: NetworkSourceConfig, interval_seconds: float, clock: StartClock) -> None:
        self._source = source
        self._interval_seconds = interval_seconds
        self._clock = clock
        self._stop = threading.Event()
        self._budget: RetryBudget | None = None
        self._thread = threading.Thread(target=self._run, name="revision-watch", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Ends it soon, without waiting for that: answers are still under way."""
        self._stop.set()
        if budget := self._budget:
            budget.interrupt()

    def _run(self) -> None:
        # Pods that started together do not ask together.
        while not self._stop.wait(self._interval_seconds * random.uniform(0.5, 1.0)):  # noqa: S311
            self.ask()

    def ask(self) -> None:
        try:
            revision = current_revision(self._source, self._asks_with)
        except WorkerFailure as failure:
            if self._stop.is_set():
                return
            # No warning: the log's last one is taken for what a crash was about.
            log.info("whether the revision has moved is not known: %s", failure)
            self._clock.note(failure.reason, str(failure), instead_of=OF_THE_SERVER)
        except Exception:
            log.exception("whether the revision has moved is not known")
        else:
            self._clock.clear_notes(OF_THE_SERVER)
            self._clock.found_revision(revision)

    def _asks_with(self, budget: "RetryBudget") -> None:
        self._budget = budget
        if self._stop.is_set():
            budget.interrupt()
