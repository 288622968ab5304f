"""Ranges by HTTP: whole and right, or an error that says what to do next. Every fault is one of a real server."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from neuronmodel_worker.sources.remote import byte_ranges
from neuronmodel_worker.sources.remote.byte_ranges import Location, RangeReader, RangeRefused
from neuronmodel_worker.sources.remote.refusals import CertificateUntrusted, EndpointInvalid
from neuronmodel_worker.sources.remote.retries import Retry
from tests.authority import Authority
from tests.standins.hub import Hub
from tests.unit.worker.sharding import small_source
from tests.unit.worker.sources.hubs import REPOSITORY, opened, weights_of

FIRST, NBYTES = 100, 5000


@pytest.fixture
def name(hub: Hub) -> str:
    return weights_of(opened(hub))[0]


@pytest.fixture
def location(hub: Hub, name: str) -> Location:
    found: Location = opened(hub)._resolve(name)[0]
    hub.requests.clear()
    return found


@pytest.fixture
def expected(checkpoint: Path, name: str) -> bytes:
    return (checkpoint / name).read_bytes()[FIRST : FIRST + NBYTES]


def read(location: Location, reader: RangeReader | None = None) -> bytes:
    return (reader or RangeReader()).read(location, FIRST, NBYTES).tobytes()


def test_a_range_is_read_by_one_request_and_not_to_be_written_to(hub: Hub, location: Location, expected: bytes) -> None:
    data = RangeReader().read(location, FIRST, NBYTES)
    assert data.tobytes() == expected
    assert not data.flags.writeable
    assert [record.range for record in hub.requests] == [f"bytes={FIRST}-{FIRST + NBYTES - 1}"]


REPAIRED: dict[str, dict[str, Any]] = {
    "busy": {"status": 503, "count": 2},
    "error": {"status": 500, "count": 1},
    "limited": {"status": 429, "count": 1},
    "cut_before_headers": {"cut_before_headers": True, "count": 1},
    "reset": {"cut_before_headers": True, "reset": True, "count": 1},
    "cut_in_the_body": {"cut_after_bytes": 77, "count": 1},
    "reset_in_the_body": {"cut_after_bytes": 77, "reset": True, "count": 1},
    "without_etag": {"drop_headers": ("ETag",)},
    "without_length": {"drop_headers": ("Content-Length",)},
}


@pytest.mark.parametrize("fault", REPAIRED)
def test_what_passes_is_repaired(fault: str, hub: Hub, location: Location, expected: bytes) -> None:
    hub.faults.add(origin="cdn", **REPAIRED[fault])
    if fault == "without_length":
        hub.faults.add(origin="cdn", set_headers={"Connection": "close"})
    assert read(location) == expected


RETRIED: dict[str, tuple[dict[str, Any], str]] = {
    "busy": ({"status": 503}, "503"),
    "limited": ({"status": 429}, "429"),
    "timeout": ({"status": 408}, "408"),
    "cut": ({"cut_before_headers": True}, "error sending request"),
    "cut_in_the_body": ({"cut_after_bytes": 77}, "body"),
    "short": ({"short_by": 3}, "4,997 of 5,000 bytes"),
    "empty": ({"short_by": NBYTES}, "0 of 5,000 bytes"),
    "whole_file": ({"ignore_range": True}, "something else than the range"),
    "page": ({"html": True}, "something else than the range"),
    "other_range": ({"set_headers": {"Content-Range": "bytes 0-4999/99999"}}, "got 0"),
    "no_range": ({"drop_headers": ("Content-Range",)}, "Content-Range"),
    "length_too_small": ({"set_headers": {"Content-Length": "50"}}, "50 of 5,000 bytes"),
    "length_is_no_number": ({"set_headers": {"Content-Length": "many"}}, "HTTP"),
}


@pytest.mark.parametrize("fault", RETRIED)
def test_what_another_attempt_may_bring_is_a_retry(fault: str, hub: Hub, location: Location) -> None:
    rule, words = RETRIED[fault]
    hub.faults.add(origin="cdn", **rule)
    with pytest.raises(Retry, match=words) as failure:
        read(location)
    assert failure.value.at == hub.cdn
    assert "Signature" not in str(failure.value)
    assert "Debug source" not in str(failure.value)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410, 412, 416])
def test_a_refusal_is_no_retry(status: int, hub: Hub, location: Location) -> None:
    hub.faults.add(origin="cdn", status=status)
    with pytest.raises(RangeRefused) as failure:
        read(location)
    assert "Signature" not in failure.value.why
    assert len(hub.requests) == 1


def test_a_range_beyond_the_end_is_refused(location: Location) -> None:
    with pytest.raises(RangeRefused, match="416"):
        RangeReader().read(location, 10**9, 10)


def test_a_redirect_is_not_followed_to_another_host(hub: Hub, location: Location) -> None:
    hub.faults.add(origin="cdn", status=302, set_headers={"Location": "http://127.0.0.1:1/?Signature=planted"})
    with pytest.raises(Retry) as failure:
        read(location)
    assert "planted" not in str(failure.value)


def test_a_body_that_stalls_ends(hub: Hub, location: Location, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(byte_ranges.TIMEOUTS, "read_timeout", timedelta(milliseconds=100))
    monkeypatch.setitem(byte_ranges.WITHIN, "max_retries", 0)
    hub.faults.add(origin="cdn", stall_after_bytes=10)
    with pytest.raises(Retry):
        read(location)


def test_a_closed_port_is_a_retry_that_names_the_host(hub: Hub, location: Location) -> None:
    hub.down()
    with pytest.raises(Retry) as failure:
        read(location)
    assert failure.value.at == hub.cdn
    hub.up()


def test_headers_of_the_location_go_with_the_request(hub: Hub, location: Location) -> None:
    with pytest.raises(RangeRefused):
        read(Location(location.url, (("Authorization", "Bearer hf_planted"),)))
    assert hub.requests.leaks, "the delivery of the tests refuses any"


def test_neither_url_nor_headers_are_in_a_representation(location: Location) -> None:
    assert repr(Location(location.url, (("Authorization", "Bearer x"),))) == "Location()"


def test_one_client_serves_a_location_and_there_are_not_too_many(
    location: Location, expected: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(byte_ranges, "MAX_STORES", 2)
    reader = RangeReader()
    for number in (1, 1, 2, 3, 1):
        reader._store(Location(f"{location.url}&n={number}"))
    assert len(reader._stores) == 2
    assert read(location, reader) == expected


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    (tmp_path / "authority").mkdir()
    return Authority(tmp_path / "authority")


@pytest.fixture
def tls_hub(authority: Authority, tmp_path: Path) -> Iterator[Hub]:
    certificate, key = authority.issue("127.0.0.1")
    with Hub(certificate=certificate, key=key) as hub:
        hub.add_repository(REPOSITORY, small_source(tmp_path / "certificate"))
        yield hub


def test_an_authority_of_ones_own_is_trusted_where_it_is_given(
    tls_hub: Hub, authority: Authority, tmp_path: Path
) -> None:
    repository = opened(tls_hub, ca=authority.certificate)
    location = repository._resolve("model.safetensors")[0]
    (tmp_path / "other").mkdir()
    other = Authority(tmp_path / "other", "another").certificate.read_text()
    mine = authority.certificate.read_text()
    expected = (tmp_path / "certificate" / "model.safetensors").read_bytes()[FIRST : FIRST + NBYTES]
    for trusted in (mine, f"# a bundle\n{other}\n# and\n{mine}"):
        assert read(location, RangeReader(trusted)) == expected
    for trusted_instead in (None, other):
        with pytest.raises(CertificateUntrusted, match=rf"{tls_hub.cdn} is not trusted: UnknownIssuer\."):
            read(location, RangeReader(trusted_instead))


def test_the_word_certificate_in_a_url_is_no_reason(hub: Hub) -> None:
    hub.faults.add(status=503)
    with pytest.raises(Retry):
        read(Location(f"{hub.endpoint}/org/certificate-model/resolve/main/UnknownIssuer"))


def test_why_nothing_answers_is_named(hub: Hub, location: Location) -> None:
    hub.down()
    with pytest.raises(Retry) as refused:
        read(location)
    assert str(refused.value) == "tcp connect error: Connection refused"


def test_a_name_that_is_none_is_named_as_that() -> None:
    with pytest.raises(Retry, match=r"^dns error: "):
        read(Location("https://nowhere.invalid/file?Signature=planted"))


def test_a_host_that_is_none_is_no_crash() -> None:
    with pytest.raises(EndpointInvalid, match="no host that is one") as refused:
        read(
            Location(
                "https://xn--0000000000000000000000000000000000000000000000000000000000000000000/f?Signature=planted"
            )
        )
    assert "planted" not in str(refused.value)
