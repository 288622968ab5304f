"""Runs two pieces of work at the same time: one in the calling thread, where signals arrive and compilers run, and one
in a thread of its own.

If one of them ends early, so does the other. The new thread checks a token with every piece of bytes. The calling
thread, which may be deep in a compiler, is interrupted by a signal wherever it has allowed that.
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
    """The other work ended with a failure or a signal. It unwinds this one."""


class CancelToken:
    """Set by one thread and checked by the other."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self._why: BaseException | None = None

    def cancel(self, why: BaseException | None = None) -> None:
        """Sets the token. `why` is what ended the caller; it becomes the cause of Cancelled."""
        self._why = why
        self._event.set()

    @property
    def cancelled(self) -> bool:
        return self._event.is_set()

    def check(self) -> None:
        """Raises Cancelled if the token is set."""
        if self.cancelled:
            raise Cancelled from self._why


class CallingThread:
    """Where the work in the calling thread may be cancelled. This implementation is for work that runs alone, and never
    cancels."""

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """Allows Cancelled to be raised anywhere in the context, so nothing that needs cleaning up may begin in it."""
        yield

    def check(self) -> None:
        """Raises Cancelled if the other work has failed."""


def run_concurrently(
    in_caller: Callable[[CallingThread], CallerResult], in_thread: Callable[[CancelToken], ThreadResult]
) -> tuple[CallerResult, ThreadResult]:
    """Runs `in_caller` in the calling thread and `in_thread` in a new one, and returns both results.

    Once both have ended, it raises whatever ended the first of them.
    """
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
    """The state that both threads share."""

    def __init__(self, in_thread: Callable[[CancelToken], ThreadResult]) -> None:
        self.cancel_token = CancelToken()
        self.made: list[ThreadResult] = []
        self.error: BaseException | None = None
        self.failed_first = False
        self.can_be_woken = False
        self.listening = False
        """Whether the calling thread may be interrupted now."""
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
        """Cancels the new thread and waits for it, even if a signal arrived while it was being started."""
        self.cancel_token.cancel(why)
        while self.thread in threading.enumerate():
            if self.thread.is_alive():
                self.thread.join()
            else:
                time.sleep(0.001)


@contextmanager
def _wake_signal(work: "_PairedWork[ThreadResult]") -> Iterator[None]:
    """Lets the new thread's failure interrupt the calling thread. That is possible only in the main thread; any other
    thread learns of the failure at the end."""
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
