"""The API server's clock counts."""

import logging
from datetime import UTC, datetime, timedelta

import pytest

from neuronmodel_operator.clock import RealClock


def is_about(clock: RealClock, offset: timedelta) -> bool:
    """A machine that stands still for minutes would be needed for another outcome."""
    return abs(clock.now() - datetime.now(UTC) - offset) < timedelta(minutes=10)


@pytest.mark.parametrize("hours", [-30, -1, 1, 24 * 365])
def test_a_clock_that_is_off_is_corrected_by_the_api_server_s_and_it_is_said(
    hours: int, caplog: pytest.LogCaptureFixture
) -> None:
    clock, offset = RealClock(), timedelta(hours=hours)
    for _ in range(3):
        clock.correct((datetime.now(UTC) + offset).replace(microsecond=0))
    assert is_about(clock, offset)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert ("behind" if hours > 0 else "ahead of") in record.message


def test_a_second_is_no_difference(caplog: pytest.LogCaptureFixture) -> None:
    clock = RealClock()
    moment = datetime.now(UTC)
    clock.correct(moment.replace(microsecond=0))
    clock.correct(moment + timedelta(seconds=1))
    assert caplog.records == []
    assert clock.now() <= datetime.now(UTC)


def test_a_clock_that_was_put_right_is_believed_again(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    clock = RealClock()
    clock.correct(datetime.now(UTC) + timedelta(hours=1))
    clock.correct(datetime.now(UTC))
    assert is_about(clock, timedelta(0))
    assert "agrees with the API server's again" in caplog.records[-1].message
