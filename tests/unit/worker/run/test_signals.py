"""A worker that is asked to stop says so, whatever the libraries that run just then make of the exception."""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest

from neuronmodel_api import exits
from neuronmodel_api.config import WorkerConfig
from neuronmodel_api.report import Stage
from neuronmodel_worker.failures import WorkerFailure
from neuronmodel_worker.report.clock import FirstLine, StartClock
from neuronmodel_worker.run import runner
from neuronmodel_worker.run.context import Run
from neuronmodel_worker.serve.listener import stop_event
from tests.unit.worker.workers import as_it_was


@pytest.fixture(autouse=True)
def _handlers() -> Iterator[None]:
    with as_it_was():
        yield


def send_sigterm(_: object = None) -> None:
    os.kill(os.getpid(), signal.SIGTERM)


class TellsWhenNamed:
    def __set_name__(self, _: type, __: str) -> None:
        send_sigterm()


def while_a_class_is_made() -> None:
    type("Made", (), {"field": TellsWhenNamed()})


def caught_and_replaced() -> None:
    with suppress(BaseException):
        send_sigterm()
    raise ImportError("no such module")


def replaced_by_a_failure_of_ours() -> None:
    with suppress(BaseException):
        send_sigterm()
    raise WorkerFailure("A child ended.")


def caught_until_requests_are_answered() -> None:
    with suppress(BaseException):
        send_sigterm()
    stop_event()


@pytest.mark.parametrize(
    "work",
    [
        send_sigterm,
        while_a_class_is_made,
        caught_and_replaced,
        replaced_by_a_failure_of_ours,
        caught_until_requests_are_answered,
    ],
)
def test_it_was_asked_to_stop_and_did_not_crash(work: Callable[[], None]) -> None:
    clock = StartClock(Stage.SERVE, FirstLine.now(), pod_uid="")
    run = Run(WorkerConfig.model_construct(source_path="", source_display=""), clock)
    code = runner._run(run, lambda: lambda _: work())
    failure = clock.snapshot().failure
    assert failure is not None
    assert (code, failure.reason) == (exits.TERMINATED, "Terminated")
