"""/readyz: whether this operator can do its work; where it can't, sentences say what to do.

Problems that a restart may solve belong to /healthz; here are those that only somebody else can solve.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Final

from aiohttp import web

LOOK_SECONDS: Final = 1.0
MAX_SENTENCES: Final = 5
"""The kubelet copies them into an Event, whose length is limited."""

_log = logging.getLogger(__name__)

Sentences = Callable[[], list[str]]


class Startup:
    """What the operator waits for before it does anything."""

    def __init__(self) -> None:
        self._waiting_for = ["The operator has just begun and has not listed NeuronModels yet."]

    def wait_for(self, what: str) -> None:
        self._waiting_for = [what]

    def end(self) -> None:
        self._waiting_for = []

    def complaints(self) -> list[str]:
        return self._waiting_for


class Readiness:
    """The operator is ready if there are no complaints; remarks may accompany either state."""

    def __init__(self, complaints: Sequence[Sentences], remarks: Sequence[Sentences]) -> None:
        self._complaints = complaints
        self._remarks = remarks
        self._logged: tuple[list[str], list[str]] | None = None

    @property
    def is_ready(self) -> bool:
        return not self.complaints()

    def complaints(self) -> list[str]:
        return [sentence for source in self._complaints for sentence in source()]

    def remarks(self) -> list[str]:
        return [sentence for source in self._remarks for sentence in source()]

    async def run(self) -> None:
        """Logs each change once; the initial state only if startup takes longer than it should."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            self.log_changes()

    def log_changes(self) -> None:
        complaints, remarks = self.complaints(), self.remarks()
        if (complaints, remarks) == self._logged:
            return
        self._logged = (complaints, remarks)
        if complaints:
            _log.warning("not ready: %s", " ".join(complaints))
        else:
            _log.log(logging.WARNING if remarks else logging.INFO, "ready%s", "".join(f": {each}" for each in remarks))

    async def readyz(self, request: web.Request) -> web.Response:
        complaints, remarks = self.complaints(), self.remarks()
        sentences = [*complaints, *(f"Remark: {remark}" for remark in remarks)]
        more = len(sentences) - MAX_SENTENCES
        lines = sentences[:MAX_SENTENCES] + ([f"And {more} more; the operator's log has them."] if more > 0 else [])
        if complaints:
            return web.Response(status=503, text="\n".join(lines) + "\n")
        return web.Response(text="\n".join(["ok", *lines]) + "\n")
