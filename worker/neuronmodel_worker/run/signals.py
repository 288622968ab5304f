"""SIGINT, SIGTERM and SIGHUP end a command as a failure does: what it has begun is cleaned up first."""

import signal
from types import FrameType
from typing import NoReturn

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

_received: "TerminatedBySignal | None" = None


class TerminatedBySignal(BaseException):
    """Raised by the signal handler, it unwinds whatever is in progress."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.exit_code = 128 + number


def stop_on_signals() -> None:
    """Installs the handlers. A signal that is ignored already (`nohup`, a script's background job) stays ignored."""
    global _received
    _received = None
    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _stop)


def termination_signal() -> TerminatedBySignal | None:
    """Returns the exception that the handler raised, if it did.

    Any later failure is a consequence of it: Python replaces an exception that is raised while a class is created, as
    it is during imports, and other code catches or replaces exceptions too.
    """
    return _received


def ignore_signals() -> None:
    """Ignores signals from now on: the rest takes an instant, and stopping in it would leave less order than
    finishing."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def _stop(number: int, _: FrameType | None) -> NoReturn:
    global _received
    ignore_signals()
    _received = TerminatedBySignal(number)
    raise _received
