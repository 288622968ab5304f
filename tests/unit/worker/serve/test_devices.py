"""How long and how often a start asks for devices that somebody else holds."""

import pytest

from neuronmodel_worker.engines import DevicesInUse
from neuronmodel_worker.serve.devices import LONGEST_PAUSE_SECONDS, DeviceBackoff

WEEK = 604_800


def test_pauses_double_up_to_the_longest_and_end_with_the_time_however_long_it_is() -> None:
    now, pauses = [0.0], list[float]()

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        now[0] += seconds

    backoff = DeviceBackoff(WEEK, lambda: now[0], pause)
    while now[0] < WEEK:
        backoff.wait(DevicesInUse("held."))
    with pytest.raises(DevicesInUse, match=r"held\. They were waited for 604,800 s\."):
        backoff.wait(DevicesInUse("held."))
    assert pauses[:6] == [1, 2, 4, 8, 16, 30]
    assert max(pauses) == LONGEST_PAUSE_SECONDS
    assert sum(pauses) == WEEK
