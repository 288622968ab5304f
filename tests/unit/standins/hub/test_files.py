"""Where the Hub sends who asks for a file, and what is there."""

import hashlib
import ssl
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import parse_qs, quote, urlsplit

import pytest

from tests.authority import Authority
from tests.standins.hub import Hub
from tests.unit.standins.hub.asking import ask, connect, send
from tests.unit.standins.hub.conftest import NUM_BYTES, REPOSITORY, WEIGHTS, Clock, file_url, signed_url, write_files
from tests.waiting import until


@pytest.mark.parametrize("method", ["HEAD", "GET"])
def test_a_large_file_is_at_the_cdn(hub: Hub, weights: bytes, method: str) -> None:
    answer = ask(file_url(hub, WEIGHTS), method)
    assert answer.status == 302
    assert answer.headers["Location"].startswith(f"{hub.cdn}/")
    assert {"Expires", "Policy", "Signature", "Key-Pair-Id"} <= set(parse_qs(answer.headers["Location"]))
    assert answer.headers["X-Repo-Commit"] == hub.repository(REPOSITORY).main
    assert answer.headers["X-Linked-Size"] == str(NUM_BYTES)
    assert answer.headers["X-Linked-ETag"] == f'"{hashlib.sha256(weights).hexdigest()}"'
    assert answer.headers["Accept-Ranges"] == "bytes"
    assert answer.headers["X-Xet-Hash"] is None


def test_files_say_that_they_are_on_xet_if_asked_to(hub: Hub) -> None:
    hub.settings.xet = True
    answer = ask(file_url(hub, WEIGHTS), "HEAD")
    assert len(answer.headers["X-Xet-Hash"]) == 64
    read_token = f"{hub.endpoint}/api/models/{REPOSITORY}/xet-read-token/{hub.repository(REPOSITORY).main}"
    assert f'<{read_token}>; rel="xet-auth"' in answer.headers["Link"]
    assert ask(read_token).headers["X-Xet-Cas-Url"] == hub.cdn
    assert ask(file_url(hub, "config.json"), "HEAD").headers["X-Xet-Hash"] is None


def test_a_small_file_is_on_the_same_host_behind_a_relative_redirect(hub: Hub, folder: Path) -> None:
    answer = ask(file_url(hub, "config.json"))
    sha, location = hub.repository(REPOSITORY).main, answer.headers["Location"]
    assert answer.status == 307
    assert location.startswith(f"/api/resolve-cache/models/{REPOSITORY}/{sha}/config.json?%2Forg%2Fname%2Fresolve")
    content = ask(hub.endpoint + location)
    assert content.body == (folder / "config.json").read_bytes()
    assert content.headers["ETag"] == f'"{hub.repository(REPOSITORY).commits[sha].files["config.json"].oid}"'
    assert content.headers["X-Repo-Commit"] == sha


def test_the_query_of_that_redirect_has_to_be_kept(hub: Hub) -> None:
    location = ask(file_url(hub, "config.json")).headers["Location"]
    assert ask(hub.endpoint + location.partition("?")[0]).status == 400
    assert ask(hub.endpoint + location.replace("etag=%22", "etag=%220")).status == 400


def test_a_small_file_that_a_client_has_is_not_sent_again(hub: Hub) -> None:
    url = hub.endpoint + ask(file_url(hub, "config.json")).headers["Location"]
    assert ask(url, If_None_Match=ask(url).headers["ETag"]).status == 304


def test_a_path_is_quoted_and_may_have_folders(hub: Hub, tmp_path: Path) -> None:
    folder = write_files(tmp_path / "quoted")
    (folder / "original" / "a file?#%.txt").write_text("there")
    hub.add_revision(REPOSITORY, folder, "main")
    answer = ask(file_url(hub, quote("original/a file?#%.txt")))
    assert ask(hub.endpoint + answer.headers["Location"]).body == b"there"


def test_the_cdn_serves_ranges(hub: Hub, signed: str, weights: bytes) -> None:
    whole = ask(signed)
    assert (whole.status, whole.body) == (200, weights)
    part = ask(signed, Range="bytes=1000-1999")
    assert (part.status, part.body) == (206, weights[1000:2000])
    assert part.headers["Content-Range"] == f"bytes 1000-1999/{NUM_BYTES}"
    assert ask(signed, Range="bytes=-10").body == weights[-10:]
    assert ask(signed, Range=f"bytes={NUM_BYTES - 5}-").body == weights[-5:]
    assert ask(signed, Range=f"bytes={NUM_BYTES - 5}-{NUM_BYTES + 5}").body == weights[-5:]


def test_a_range_beyond_the_end_is_416(signed: str) -> None:
    answer = ask(signed, Range=f"bytes={NUM_BYTES}-")
    assert (answer.status, answer.headers["Content-Range"]) == (416, f"bytes */{NUM_BYTES}")


def test_a_signed_url_is_for_get_alone(signed: str) -> None:
    assert ask(signed, "HEAD").status == 403


def test_a_signed_url_expires(hub: Hub, clock: Clock) -> None:
    hub.signer.lifetime_seconds = 1
    url = signed_url(hub)
    assert ask(url).status == 200
    clock.now += 1
    expired = ask(url)
    assert (expired.status, expired.headers["Content-Type"]) == (403, "application/xml")
    assert b"<Code>AccessDenied</Code>" in expired.body
    assert ask(signed_url(hub)).status == 200


@pytest.mark.parametrize("name", ["Expires", "Policy", "Signature", "Key-Pair-Id"])
def test_without_a_parameter_a_url_is_refused(signed: str, name: str) -> None:
    assert ask(signed.replace(f"{name}=", f"No{name}=")).status == 403


def test_a_changed_url_is_refused(hub: Hub, signed: str) -> None:
    expires = parse_qs(urlsplit(signed).query)["Expires"][0]
    assert ask(signed.replace(expires, str(int(expires) + 1))).status == 403
    assert ask(signed.replace("Signature=", "Signature=x")).status == 403
    assert ask(signed.replace("/repos/", "/repos/0")).status == 403


def test_urls_have_amazons_parameters_if_asked_to(hub: Hub) -> None:
    hub.signer.with_amazon_expiry = True
    url = signed_url(hub)
    assert parse_qs(urlsplit(url).query)["X-Amz-Expires"] == ["3600"]
    assert ask(url).status == 200


def test_a_token_at_the_cdn_is_refused_and_recorded(hub: Hub, signed: str) -> None:
    assert hub.requests.leaks == []
    assert ask(signed, token="hf_secret").status == 400
    assert [record.origin for record in hub.requests.leaks] == ["cdn"]
    assert "hf_secret" not in str(hub.requests.described())


def test_a_file_that_was_changed_on_disk_is_never_served_as_the_commits(hub: Hub, signed: str, folder: Path) -> None:
    (folder / WEIGHTS).write_bytes(b"other")
    assert ask(signed).status == 500


def test_requests_are_recorded_with_what_was_sent(hub: Hub, signed: str) -> None:
    hub.requests.clear()
    ask(signed, Range="bytes=0-9")
    ask(file_url(hub, "config.json"), "HEAD")
    first, second = hub.requests
    until(lambda: first.done and second.done, "what was sent to be counted")
    assert (first.origin, first.method, first.file, first.range) == ("cdn", "GET", WEIGHTS, "bytes=0-9")
    assert (first.status, first.bytes_sent) == (206, 10)
    assert (second.path, second.status, second.authorized) == (f"/{REPOSITORY}/resolve/main/config.json", 307, False)
    assert hub.requests.count(path="*.safetensors", status=206) == 1


def test_a_connection_is_kept(hub: Hub, signed: str, weights: bytes) -> None:
    connection = connect(signed)
    assert [send(connection, signed, Range="bytes=0-1").status for _ in range(3)] == [206, 206, 206]
    kept = connection.sock
    assert send(connection, signed).body == weights
    assert connection.sock is kept is not None
    connection.close()


def test_many_connections_are_served_at_the_same_time(signed: str, weights: bytes) -> None:
    starts = range(0, NUM_BYTES, NUM_BYTES // 64)
    with ThreadPoolExecutor(len(starts)) as threads:
        parts = threads.map(lambda start: ask(signed, Range=f"bytes={start}-{start + starts.step - 1}").body, starts)
        assert b"".join(parts) == weights


def test_both_origins_speak_https(folder: Path, tmp_path: Path, weights: bytes) -> None:
    authority = Authority(tmp_path)
    certificate, key = authority.issue("127.0.0.1", "localhost")
    trusting = ssl.create_default_context(cafile=str(authority.certificate))
    with Hub(certificate=certificate, key=key) as hub:
        hub.add_repository(REPOSITORY, folder)
        url = ask(file_url(hub, WEIGHTS), tls=trusting).headers["Location"]
        assert url.startswith("https://")
        assert ask(url, tls=trusting).body == weights
        with pytest.raises(ssl.SSLCertVerificationError):
            ask(url)
        assert ask(url, tls=trusting, Range="bytes=5-6").status == 206


def test_urls_are_as_advertised(folder: Path) -> None:
    with Hub(listen="0.0.0.0", advertise="http://localhost", advertise_cdn="http://127.0.0.2:1") as hub:
        hub.add_repository(REPOSITORY, folder)
        hub.settings.page_size = 1
        assert hub.endpoint.startswith("http://localhost:")
        assert ask(f"{hub.endpoint}/api/models/{REPOSITORY}/tree/main").headers["Link"].startswith(f"<{hub.endpoint}/")
        assert signed_url(hub).startswith("http://127.0.0.2:1/")


def test_the_cdn_is_advertised_on_the_hubs_host() -> None:
    with Hub(advertise="http://localhost:1") as hub:
        assert hub.endpoint == "http://localhost:1"
        assert hub.cdn.startswith("http://localhost:")
        assert hub.cdn != hub.endpoint
