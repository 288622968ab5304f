"""How often workers are asked for their reports: as often as a plan wishes, but never more than a number of them a
second, however many NeuronModels there are."""

from collections import Counter
from typing import Final

QUESTIONS_A_SECOND: Final = 25.0
"""Of each interval that plans wish for: those that start do not wait for those that rest. A report that brings nothing
new takes about a millisecond of a processor, one of a worker that starts a whole pass."""


class Pace:
    def __init__(self) -> None:
        self._wished: dict[str, float] = {}
        self._counts: Counter[float] = Counter()

    def pause(self, uid: str, wished: float | None) -> float | None:
        """Returns after how many seconds the workers of a NeuronModel are asked again; None if they are not. The wish
        counts until its next one."""
        self.forget(uid)
        if wished is None:
            return None
        self._wished[uid] = wished
        self._counts[wished] += 1
        return max(wished, self._counts[wished] / QUESTIONS_A_SECOND)

    def forget(self, uid: str) -> None:
        if (former := self._wished.pop(uid, None)) is not None:
            self._counts[former] -= 1
