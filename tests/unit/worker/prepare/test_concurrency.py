"""Two pieces of work at the same time: whatever ends one ends the other, and nothing runs on."""

import os
import signal
import threading
import time
from collections.abc import Callable
from types import FrameType

import pytest

from neuronmodel_worker.prepare.concurrency import WAKE, CallingThread, CancelToken, run_concurrently
from tests.waiting import PATIENCE_SECONDS

LONG = PATIENCE_SECONDS
"""Seconds that no test waits for: what is stopped ends sooner."""


class Signalled(BaseException):
    """As a signal's handler raises."""


def until_stopped(cancel_token: CancelToken) -> None:
    while True:
        cancel_token.check()
        time.sleep(0.001)


def fail(*_: object) -> None:
    raise OSError("broken")


def interrupted(calling_thread: CallingThread, work: Callable[[], object]) -> None:
    with calling_thread.interruptible():
        work()


def alive() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == "concurrent"]


def test_both_results_come_back_from_two_threads() -> None:
    here, there = run_concurrently(lambda _: threading.get_ident(), lambda cancel_token: threading.get_ident())
    assert here == threading.get_ident() != there


def test_both_run_at_the_same_time() -> None:
    both = threading.Barrier(2, timeout=LONG)
    run_concurrently(lambda _: both.wait(), lambda cancel_token: both.wait())


def test_a_failure_here_stops_the_other_and_is_reported() -> None:
    began = threading.Event()

    def there(cancel_token: CancelToken) -> None:
        began.set()
        until_stopped(cancel_token)

    def here(_: CallingThread) -> None:
        began.wait()
        fail()

    with pytest.raises(OSError, match="broken"):
        run_concurrently(here, there)
    assert alive() == []


@pytest.mark.parametrize("wait", [lambda: time.sleep(LONG), lambda: threading.Event().wait(LONG)])
def test_a_failure_there_wakes_this_thread_and_is_reported(wait: object) -> None:
    assert callable(wait)
    before = signal.getsignal(WAKE)
    with pytest.raises(OSError, match="broken"):
        run_concurrently(lambda calling_thread: interrupted(calling_thread, wait), fail)
    assert signal.getsignal(WAKE) is before


def test_a_failure_there_is_reported_where_no_signal_arrives() -> None:
    """In another thread than the main one, the work here ends first."""
    errors: list[BaseException] = []

    def run() -> None:
        try:
            run_concurrently(lambda _: None, fail)
        except OSError as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert [str(error) for error in errors] == ["broken"]


@pytest.mark.parametrize("here_is_done", [False, True])
def test_a_signal_unwinds_both(here_is_done: bool) -> None:
    ended: list[str] = []

    def handle(number: int, frame: FrameType | None) -> None:
        raise Signalled

    def there(cancel_token: CancelToken) -> None:
        os.kill(os.getpid(), signal.SIGALRM)
        try:
            until_stopped(cancel_token)
        finally:
            ended.append("there")

    before = signal.signal(signal.SIGALRM, handle)
    try:
        with pytest.raises(Signalled):
            run_concurrently(lambda _: None if here_is_done else time.sleep(LONG), there)
    finally:
        signal.signal(signal.SIGALRM, before)
    assert ended == ["there"]
    assert alive() == []


def test_of_two_failures_the_first_is_reported() -> None:
    began = threading.Event()

    def there(cancel_token: CancelToken) -> None:
        began.set()
        try:
            until_stopped(cancel_token)
        finally:
            raise ValueError("while stopping")

    def here(_: CallingThread) -> None:
        began.wait()
        fail()

    with pytest.raises(OSError, match="broken"):
        run_concurrently(here, there)


def test_many_failures_at_any_moment_leave_nothing_running() -> None:
    for number in range(200):
        with pytest.raises(OSError, match="broken"):
            run_concurrently(lambda w, n=number: interrupted(w, lambda: time.sleep(n * 1e-6)), fail)  # type: ignore[misc]
    assert alive() == []


def test_what_may_not_be_interrupted_is_finished_before_the_failure_is_reported() -> None:
    failed = threading.Event()
    order: list[str] = []

    def there(cancel_token: CancelToken) -> None:
        try:
            fail()
        finally:
            failed.set()

    def here(calling_thread: CallingThread) -> None:
        failed.wait(LONG)
        order.append("put in order")
        interrupted(calling_thread, lambda: order.append("begun after the failure"))

    with pytest.raises(OSError, match="broken"):
        run_concurrently(here, there)
    assert order[0] == "put in order"


def test_what_is_stopped_knows_what_ended_the_other() -> None:
    causes: list[BaseException | None] = []

    def there(cancel_token: CancelToken) -> None:
        try:
            until_stopped(cancel_token)
        except BaseException as stopped:
            causes.append(stopped.__cause__)
            raise

    with pytest.raises(OSError, match="broken"):
        run_concurrently(fail, there)
    assert [str(cause) for cause in causes] == ["broken"]
