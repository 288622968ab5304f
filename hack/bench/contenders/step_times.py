"""Where the processor seconds of a run go: what a thread spends between entering a step and leaving it, summed over all
of them."""

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any


class StepTimes:
    """Processor seconds by step. A step within another one is taken out of that."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._lock = threading.Lock()
        self._inner = threading.local()

    def measured(self, function: Callable[..., Any], name: str | Callable[..., str]) -> Callable[..., Any]:
        """The function, as a step. `name` may be made from its arguments."""
        fixed, inner, seconds, clock = (
            name if isinstance(name, str) else None,
            self._inner,
            self.seconds,
            time.thread_time,
        )

        def measuring(*arguments: Any, **options: Any) -> Any:
            outer, inner.seconds = getattr(inner, "seconds", 0.0), 0.0
            began = clock()
            try:
                return function(*arguments, **options)
            finally:
                took = clock() - began
                of_step = fixed or name(*arguments)  # type: ignore[operator]
                with self._lock:
                    seconds[of_step] += took - inner.seconds
                inner.seconds = outer + took

        return measuring


Replacements = Sequence[tuple[Any, str, Any]]
"""(class or module, name, what stands there meanwhile)."""


@contextmanager
def replaced(replacements: Replacements) -> Iterator[None]:
    before = [(owner, name, owner.__dict__[name]) for owner, name, _ in replacements]
    for owner, name, value in replacements:
        setattr(owner, name, value)
    try:
        yield
    finally:
        for owner, name, value in before:
            setattr(owner, name, value)
