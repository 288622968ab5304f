"""Asks now and then, while the model answers, whether the repository's revision has moved.

A worker goes on serving its commit whatever the answer: it is for `UpdateAvailable`. The first question comes after the
interval, as a start that has what it needs asks for nothing.
"""

import logging
import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from neuronmodel_api.conditions import ConditionType
from neuronmodel_api.config import HubSource
from neuronmodel_api.reasons import Reason
from neuronmodel_worker.failures import WorkerFailure
from neuronmodel_worker.report.clock import StartClock

if TYPE_CHECKING:
    from neuronmodel_worker.sources.hub.client import HubClient

log = logging.getLogger(__name__)

OF_THE_SERVER: Final = tuple(reason for reason in Reason if reason.condition is ConditionType.SOURCE_RESOLVED)
"""Reasons of notes that an answer proves wrong."""


@contextmanager
def watching_revision(source: HubSource | None, clock: StartClock) -> Iterator[None]:
    """Watches the revision in a thread as long as the context lasts, if the source has one that may move."""
    if source is None or source.commit is None or source.check_seconds is None:
        yield
        return
    watch = RevisionWatch(source, source.check_seconds, clock)
    watch.start()
    try:
        yield
    finally:
        watch.stop()


class RevisionWatch:
    """Puts the commit that the revision is at into the report, or a note on why that is not known."""

    def __init__(self, source: HubSource, interval_seconds: float, clock: StartClock) -> None:
        self._source = source
        self._interval_seconds = interval_seconds
        self._clock = clock
        self._stop = threading.Event()
        self._client: HubClient | None = None
        self._thread = threading.Thread(target=self._run, name="revision-watch", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Ends it soon, without waiting for that: answers are still under way."""
        self._stop.set()
        if client := self._client:
            client.budget.interrupt()

    def _run(self) -> None:
        # Pods that started together do not ask together.
        while not self._stop.wait(self._interval_seconds * random.uniform(0.5, 1.0)):  # noqa: S311
            self.ask()

    def ask(self) -> None:
        try:
            commit = self._commit()
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
            self._clock.found_revision(commit)

    def _commit(self) -> str:
        from neuronmodel_worker.sources.hub.configured import client_of  # reads a network, as nothing else here does

        self._client = client_of(self._source)
        if self._stop.is_set():
            self._client.budget.interrupt()
        return self._client.commit(self._source.revision)
