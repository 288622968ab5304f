"""How often something is done for each of many NeuronModels: as often as it is wished for, but never for more than some
of them a second, however many there are."""

from collections import Counter


class Pace:
    def __init__(self, most_a_second: float) -> None:
        """`most_a_second`: of each interval that is wished for."""
        self._most_a_second = most_a_second
        self._wished: dict[str, float] = {}
        self._counts: Counter[float] = Counter()

    def pause(self, uid: str, wished: float | None) -> float | None:
        """Returns after how many seconds it is done again for a NeuronModel; None if it is not. The wish counts until
        its next one."""
        self.forget(uid)
        if wished is None:
            return None
        self._wished[uid] = wished
        self._counts[wished] += 1
        return max(wished, self._counts[wished] / self._most_a_second)

    def forget(self, uid: str) -> None:
        if (former := self._wished.pop(uid, None)) is not None:
            self._counts[former] -= 1
