"""Two pieces of work at the same time: one here, where signals arrive and compilers want to be, one in a thread.

Whatever ends one ends the other: the thread is told by an event, which it looks at with every piece of bytes; this
thread, which may be deep in a compiler, by a signal to itself, where it says that it may be interrupted.
"""

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Generic, TypeVar

CallerResult = TypeVar("CallerResult")
ThreadResult = TypeVar("ThreadResult")

WAKE = signal.SIGUSR1


class Cancelled(BaseException):
    """The other work ended with a failure or a signal: unwinds this one."""


class CancelToken:
    """Asked for by one, obeyed by the other."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self._why: BaseException | None = None

    def cancel(self, why: BaseException | None = None) -> None:
        """`why`: what ended the one who asks; it becomes the cause of Cancelled."""
        self._why = why
        self._event.set()

    @property
    def cancelled(self) -> bool:
        return self._event.is_set()

    def check(self) -> None:
        """Raises Cancelled."""
        if self.cancelled:
            raise Cancelled from self._why


class CallingThread:
    """What the work here does where it may be ended from outside. This one is alone: nobody ends it."""

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """Cancelled may be raised anywhere in the context: nothing that has to be put in order is begun in it."""
        yield

    def check(self) -> None:
        """Raises Cancelled."""


def run_concurrently(
    in_caller: Callable[[CallingThread], CallerResult], in_thread: Callable[[CancelToken], ThreadResult]
) -> tuple[CallerResult, ThreadResult]:
    """What both return; `there` has a thread of its own. Raises what ended the first of them, when both have ended."""
    work = _PairedWork(in_thread)
    with _wake_signal(work):
        try:
            work.thread.start()
            made = in_caller(work)
            work.thread.join()
        except BaseException as error:
            work.end(error)
            if work.error and (work.failed_first or isinstance(error, Cancelled)):
                raise work.error from None
            raise
    if work.error:
        raise work.error
    return made, work.made[0]


class _PairedWork(CallingThread, Generic[ThreadResult]):
    def __init__(self, in_thread: Callable[[CancelToken], ThreadResult]) -> None:
        self.cancel_token = CancelToken()
        self.made: list[ThreadResult] = []
        self.error: BaseException | None = None
        self.failed_first = False
        self.can_be_woken = False
        self.listening = False
        """Whether the other thread is to be woken now."""
        self.thread = threading.Thread(target=self._run, args=(in_thread,), name="concurrent")
        self._other = threading.get_ident()

    def _run(self, in_thread: Callable[[CancelToken], ThreadResult]) -> None:
        try:
            self.made.append(in_thread(self.cancel_token))
        except Cancelled:
            pass
        except BaseException as error:
            self.error = error
            self.failed_first = not self.cancel_token.cancelled
            if self.listening:
                signal.pthread_kill(self._other, WAKE)

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        self.listening = self.can_be_woken
        try:
            self.check()
            yield
        finally:
            self.listening = False

    def check(self) -> None:
        if self.failed_first:
            raise Cancelled

    def end(self, why: BaseException) -> None:
        """Also where a signal came while the thread was being started."""
        self.cancel_token.cancel(why)
        while self.thread in threading.enumerate():
            if self.thread.is_alive():
                self.thread.join()
            else:
                time.sleep(0.001)


@contextmanager
def _wake_signal(work: "_PairedWork[ThreadResult]") -> Iterator[None]:
    """This thread is interrupted when the other one fails; only the main thread can be, others learn it at the end."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def wake(number: int, frame: FrameType | None) -> None:
        if work.listening:
            work.listening = False
            raise Cancelled

    before = signal.signal(WAKE, wake)
    work.can_be_woken = True
    try:
        yield
    finally:
        signal.signal(WAKE, before if before is not None else signal.SIG_DFL)
