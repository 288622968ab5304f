"""SIGINT, SIGTERM and SIGHUP end a command as a failure does: what was begun is cleared away first."""

import signal
from types import FrameType
from typing import NoReturn

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Stopped(BaseException):
    """Unwinds whatever is under way."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.exit_code = 128 + number


def cause_of(error: Exception) -> Stopped | None:
    """Python makes another exception of one that is raised while a class is made, as it is during imports."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, Stopped):
            return cause
        cause = cause.__cause__ or cause.__context__
    return None


def stop_on_signals() -> None:
    """One that is ignored already (`nohup`, a job in the background of a script) stays ignored."""
    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _stop)


def ignore_signals() -> None:
    """From here on it takes an instant to the end, and to stop between would leave less order than to go on."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def _stop(number: int, _: FrameType | None) -> NoReturn:
    ignore_signals()
    raise Stopped(number)
