"""SIGINT, SIGTERM and SIGHUP end a command as a failure does: what was begun is cleared away first."""

import signal
from types import FrameType
from typing import NoReturn

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

_received: "TerminatedBySignal | None" = None


class TerminatedBySignal(BaseException):
    """Unwinds whatever is under way."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.exit_code = 128 + number


def stop_on_signals() -> None:
    """One that is ignored already (`nohup`, a job in the background of a script) stays ignored."""
    global _received
    _received = None
    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _stop)


def termination_signal() -> TerminatedBySignal | None:
    """What was raised, if it was. Whatever fails after it fails because of it: Python makes another exception of one
    that is raised while a class is made, as it is during imports, and other code catches or replaces what it meets."""
    return _received


def ignore_signals() -> None:
    """From here on it takes an instant to the end, and to stop between would leave less order than to go on."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def _stop(number: int, _: FrameType | None) -> NoReturn:
    global _received
    ignore_signals()
    _received = TerminatedBySignal(number)
    raise _received
