"""What is counted of a network: time in which several are at something counts once."""

from neuronmodel_worker.sources.remote.traffic import BusyTime, Traffic


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_time_that_overlaps_counts_once() -> None:
    clock = Clock()
    busy = BusyTime(clock)
    with busy.counted():
        clock.now += 2
        with busy.counted():
            clock.now += 3
        assert busy.is_busy
        assert busy.seconds == 5
        clock.now += 1
    clock.now += 50
    assert (busy.is_busy, busy.seconds) == (False, 6)
    with busy.counted():
        clock.now += 4
    assert busy.seconds == 10


def test_time_is_counted_when_what_was_done_fails() -> None:
    clock = Clock()
    busy = BusyTime(clock)
    try:
        with busy.counted():
            clock.now += 2
            raise KeyError
    except KeyError:
        assert (busy.is_busy, busy.seconds) == (False, 2)


def test_the_rate_is_over_the_time_of_reading() -> None:
    clock = Clock()
    traffic = Traffic(clock)
    assert traffic.report() is None
    traffic.requested()
    report = traffic.report()
    assert report is not None
    assert (report.requests, report.bytes, report.bytes_per_second) == (1, 0, None)
    with traffic.reading.counted():
        clock.now += 2
    traffic.read(500)
    traffic.retried()
    clock.now += 1000
    with traffic.limited.counted():
        clock.now += 55
        limited = traffic.report()
    report = traffic.report()
    assert limited is not None
    assert limited.is_limited
    assert report is not None
    assert (report.bytes_per_second, report.retries, report.limited_milliseconds) == (250, 1, 55_000)
    assert not report.is_limited
