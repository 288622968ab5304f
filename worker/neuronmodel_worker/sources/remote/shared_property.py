"""What is made once for an object that many threads read."""

import threading
from collections.abc import Callable
from functools import cached_property
from typing import Any, TypeVar

T = TypeVar("T")


class shared_property(cached_property[T]):  # noqa: N801 - named as the one that it takes the place of
    """A cached_property that several threads may ask for at once, and that is computed once. Python's own has no lock
    from 3.12 on."""

    def __init__(self, func: Callable[[Any], T]) -> None:
        super().__init__(func)
        self._making = threading.RLock()

    def __get__(self, instance: Any, owner: type[Any] | None = None) -> T:  # type: ignore[override]
        with self._making:
            made: T = super().__get__(instance, owner)
            return made
