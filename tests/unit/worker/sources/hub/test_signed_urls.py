"""How long URLs are used, by the server's clock and one of the test's own."""

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from email.utils import format_datetime

import pytest

from neuronmodel_worker.sources.hub.signed_urls import UNKNOWN_LIFETIME_SECONDS, SignedUrls, lifetime_seconds
from neuronmodel_worker.sources.remote.byte_ranges import Location
from tests.waiting import until

# A year off: the machine's clock does not matter.
NOW = datetime(2025, 3, 1, 12, 0, 0, tzinfo=UTC)
DATE = format_datetime(NOW, usegmt=True)
EPOCH = int(NOW.timestamp())

URLS: dict[str, tuple[str, float | None]] = {
    "cloudfront": (f"?Expires={EPOCH + 3600}&Policy=x&Signature=y&Key-Pair-Id=z", 3600),
    "amazon": ("?X-Amz-Date=20250301T120000Z&X-Amz-Expires=3600&X-Amz-Signature=y", 3600),
    "amazon_signed_before": ("?X-Amz-Date=20250301T113000Z&X-Amz-Expires=3600&X-Amz-Signature=y", 1800),
    "amazon_without_date": ("?X-Amz-Expires=600", 600),
    "google": ("?X-Goog-Date=20250301T115000Z&X-Goog-Expires=900&X-Goog-Signature=y", 300),
    "both_the_sooner": (f"?X-Amz-Date=20250301T120000Z&X-Amz-Expires=3600&Expires={EPOCH + 60}", 60),
    "expired": (f"?Expires={EPOCH - 60}", 1),
    "zero": ("?X-Amz-Expires=0", 1),
    "none": ("", None),
    "azure": ("?sv=2024&se=2025-03-01T13%3A00%3A00Z&sig=y", None),
    "no_number": ("?Expires=tomorrow&X-Amz-Expires=-1", None),
    "no_ascii": ("?Expires=%C2%B2", None),
    "huge": ("?Expires=" + "9" * 5000, None),
}


@pytest.mark.parametrize("form", URLS)
def test_a_lifetime_is_counted_by_the_servers_clock(form: str) -> None:
    query, expected = URLS[form]
    assert lifetime_seconds(f"https://cdn.example/key{query}", DATE) == expected


@pytest.mark.parametrize("date", [None, "", "yesterday", "Sat, 99 Mar 2025 12:00:00 GMT"])
def test_without_a_date_the_machines_clock_counts(date: str | None) -> None:
    expires = int(datetime.now(UTC).timestamp()) + 3600
    found = lifetime_seconds(f"https://cdn.example/key?Expires={expires}", date)
    assert found is not None
    assert 3500 < found <= 3600


class Server:
    """Numbers the URLs that it gives."""

    def __init__(self, lifetime: float | None = 1000.0) -> None:
        self.now = 5000.0
        self.lifetime = lifetime
        self.asked: list[str] = []
        self.gate = threading.Event()
        self.gate.set()
        self.urls = SignedUrls(self.resolve, lambda: self.now)

    def resolve(self, name: str) -> tuple[Location, float | None]:
        self.asked.append(name)
        number = len(self.asked)
        self.gate.wait()
        return Location(f"https://cdn.example/{name}?n={number}"), self.lifetime


def test_a_url_is_used_for_four_fifths_of_its_life() -> None:
    server = Server()
    first = server.urls.location("a")
    server.now += 800
    assert server.urls.location("a") == first
    server.now += 1
    assert server.urls.location("a") != first
    assert server.asked == ["a", "a"]


def test_a_url_that_does_not_say_is_used_for_a_quarter_of_an_hour_less_a_fifth() -> None:
    server = Server(lifetime=None)
    server.urls.location("a")
    server.now += 0.8 * UNKNOWN_LIFETIME_SECONDS + 1
    server.urls.location("a")
    assert len(server.asked) == 2


def test_an_old_url_that_is_refused_is_asked_for_again_once() -> None:
    server = Server()
    first = server.urls.location("a")
    server.now += 61
    assert server.urls.is_outdated("a", first)
    second = server.urls.location("a")
    assert second != first
    assert not server.urls.is_outdated("a", second), "a URL this young was not refused for its age"
    assert server.urls.is_outdated("a", first), "another thread was refused the first one, and there is a second"
    assert len(server.asked) == 2


def test_a_short_lived_url_is_young_for_half_its_life() -> None:
    server = Server(lifetime=2.0)
    first = server.urls.location("a")
    server.now += 0.9
    assert not server.urls.is_outdated("a", first)
    server.now += 0.2
    assert server.urls.is_outdated("a", first)


def test_a_rotated_token_makes_a_young_location_outdated() -> None:
    server = Server()
    first = server.urls.location("a")
    assert server.urls.is_outdated("a", first, rotated=True)
    assert server.urls.location("a") != first


def test_threads_that_ask_at_once_ask_the_server_once_a_file() -> None:
    server = Server()
    server.gate.clear()
    with ThreadPoolExecutor(8) as threads:
        found = [threads.submit(server.urls.location, name) for name in "aaaabbbb"]
        until(lambda: sorted(server.asked) == ["a", "b"], "one question for each file, at the same time")
        server.gate.set()
        assert len({each.result() for each in found}) == 2
    assert sorted(server.asked) == ["a", "b"]


def test_what_resolving_raises_is_raised_and_not_remembered() -> None:
    answers = iter([OSError("no"), None])

    def resolve(name: str) -> tuple[Location, float | None]:
        if error := next(answers):
            raise error
        return Location(f"https://cdn.example/{name}"), None

    urls = SignedUrls(resolve)
    with pytest.raises(OSError, match="no"):
        urls.location("a")
    assert urls.location("a") == Location("https://cdn.example/a")
