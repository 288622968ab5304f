"""The Hub's API: what each answer means, in a sentence with its remedy, and where a token goes."""

import http.server
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from neuronmodel_worker.failures import WorkerFailure
from neuronmodel_worker.sources.hub.client import HubClient, HubServer
from neuronmodel_worker.sources.remote.refusals import (
    CertificateUntrusted,
    EndpointInvalid,
    RepositoryNotFound,
    RevisionNotFound,
    SourceForbidden,
    SourceGated,
    SourceRateLimited,
    SourceUnreachable,
    TokenInvalid,
)
from tests.authority import Authority
from tests.ports import free_port
from tests.standins.hub import Hub, Limit
from tests.unit.worker.sharding import small_source
from tests.unit.worker.sources.hubs import REPOSITORY, TOKEN, asking, opened, weights_of
from tests.waiting import until

CLIENT = "neuronmodel_worker.sources.hub.client"


def whole(hub: Hub, token: str | None = None) -> None:
    """All that is asked of a Hub before bytes are read."""
    client = asking(hub, token)
    commit = client.commit("main")
    names = [file.name for file in client.files(commit)]
    client.resolve(commit, next(name for name in names if name.endswith(".safetensors")))
    client.content(commit, "config.json", 1 << 20)


def private(hub: Hub) -> None:
    hub.repository(REPOSITORY).private = True


def gated(hub: Hub) -> None:
    hub.repository(REPOSITORY).gated = "manual"


def disabled(hub: Hub) -> None:
    hub.repository(REPOSITORY).disabled = True


def without_scope(hub: Hub) -> None:
    gated(hub)
    hub.repository(REPOSITORY).grants.add("somebody")
    hub.add_token(TOKEN, "somebody", reads_private=False)


def revoked(hub: Hub) -> None:
    hub.revoke(TOKEN)


def answering(**fault: Any) -> Callable[[Hub], object]:
    return lambda hub: hub.faults.add(origin="hub", **fault)


Case = tuple[Callable[[Hub], object], str | None, type[WorkerFailure], str]

REFUSALS: dict[str, Case] = {
    "private_without_token": (private, None, RepositoryNotFound, "no public org/name at .* give a token of a user who"),
    "private_to_others": (private, TOKEN, RepositoryNotFound, "that the token's user may see.* Correct the name, or"),
    "token_of_nobody": (revoked, TOKEN, TokenInvalid, "does not accept the token.*Invalid credentials.*give a valid"),
    "gated_without_token": (gated, None, SourceGated, "ask for access at {hub}/org/name, and give a token"),
    "gated_without_grant": (gated, TOKEN, SourceGated, "ask for access at {hub}/org/name, as the user.* not been gran"),
    "scope": (without_scope, TOKEN, SourceForbidden, "enable access to public gated.*may lack the scope"),
    "disabled": (disabled, None, SourceForbidden, r"Access to this resource is disabled\).*Give a token"),
    "disabled_with_token": (disabled, TOKEN, SourceForbidden, r"resource is disabled\).*give one that has it"),
    "wants_a_token": (answering(status=401), None, TokenInvalid, "wants a token for org/name, and none is given. Give"),
    "page": (answering(html=True), None, EndpointInvalid, "does not speak the Hub's API.*doctype html.*Name an endp"),
    "page_404": (
        answering(status=404),
        None,
        EndpointInvalid,
        "answers 404 where.*begins as a fault.*Name an endpoint",
    ),
    "teapot": (answering(status=418), None, EndpointInvalid, "answers 418"),
    "busy": (answering(status=503), None, SourceUnreachable, "cannot be reached: .* answers 503.*Check the name"),
    "error": (answering(status=500), None, SourceUnreachable, "answers 500"),
    "cut": (answering(cut_before_headers=True), None, SourceUnreachable, "cannot be reached: {hub}: Remote end closed"),
    "limited_for_long": (
        answering(status=429, set_headers={"Retry-After": "400"}),
        None,
        SourceRateLimited,
        "wait for 400 s more.* give a token",
    ),
    "limited_by_header": (
        answering(status=429, set_headers={"RateLimit": '"api";r=0;t=301'}),
        None,
        SourceRateLimited,
        "wait for 301 s more",
    ),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_each_refusal_has_its_class_and_a_sentence_with_its_remedy(name: str, hub: Hub) -> None:
    change, token, kind, words = REFUSALS[name]
    hub.add_token(TOKEN, "somebody")
    change(hub)
    with pytest.raises(kind, match=words.format(hub=hub.endpoint)) as failure:
        whole(hub, token)
    assert type(failure.value) is kind
    assert TOKEN not in str(failure.value)
    assert str(failure.value).endswith(".")


@pytest.mark.parametrize("token", [None, TOKEN])
def test_a_missing_repository_is_not_told_from_one_that_may_not_be_seen(hub: Hub, token: str | None) -> None:
    hub.add_token(TOKEN, "somebody")
    with pytest.raises(RepositoryNotFound, match=r"There is no .*org/missing"):
        opened(hub, token=token, repository="org/missing")


@pytest.mark.parametrize("revision", ["missing", "0" * 40, "refs/pr/7"])
def test_a_missing_revision_is_named(hub: Hub, revision: str) -> None:
    with pytest.raises(RevisionNotFound, match=f"org/name at {hub.endpoint} has no revision {revision}. Name a bran"):
        opened(hub, revision)


def test_a_missing_file_is_not_found(hub: Hub) -> None:
    client = asking(hub)
    for ask in (client.resolve, lambda commit, name: client.content(commit, name, 10)):
        with pytest.raises(FileNotFoundError):
            ask(client.commit("main"), "missing.json")


def test_a_granted_user_reads_a_gated_and_private_repository(hub: Hub) -> None:
    private(hub)
    gated(hub)
    hub.add_token(TOKEN, "somebody")
    hub.repository(REPOSITORY).grants.add("somebody")
    whole(hub, TOKEN)
    assert all(record.authorized for record in hub.requests.matching(origin="hub"))


def test_a_revision_with_a_slash_is_found(hub: Hub, checkpoint: Path) -> None:
    sha = hub.add_revision(REPOSITORY, checkpoint, "refs/pr/1")
    assert opened(hub, "refs/pr/1").commit == sha


def test_files_come_from_every_page(hub: Hub) -> None:
    client = asking(hub)
    commit = client.commit("main")
    at_once = client.files(commit)
    hub.requests.clear()
    hub.settings.page_size = 1
    assert client.files(commit) == at_once
    assert hub.requests.count(path="*/tree/*") == len(at_once)


def test_pages_without_an_end_are_refused(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"{CLIENT}.MAX_PAGES", 3)
    client = asking(hub)
    link = f'<{hub.endpoint}/api/models/{REPOSITORY}/tree/main?cursor=>; rel="next"'
    hub.faults.add(path="*/tree/*", set_headers={"Link": link})
    with pytest.raises(EndpointInvalid, match="more than 3 pages"):
        client.files("main")


@pytest.mark.parametrize("status", [301, 307, 308])
def test_a_renamed_repository_is_followed(hub: Hub, status: int) -> None:
    hub.rename(REPOSITORY, "neworg/newname", status)
    whole(hub)


ASKS: dict[str, Callable[[HubClient], object]] = {
    "commit": lambda client: client.commit("main"),
    "files": lambda client: client.files("main"),
    "resolve": lambda client: client.resolve("main", "config.json"),
    "content": lambda client: client.content("main", "config.json", 99),
}


@pytest.mark.parametrize("ask", ASKS)
def test_redirects_without_an_end_are_refused(ask: str, hub: Hub) -> None:
    hub.faults.add(origin="hub", status=307, set_headers={"Location": "/again"})
    with pytest.raises(EndpointInvalid, match="redirect"):
        ASKS[ask](asking(hub))


@pytest.mark.parametrize(
    "body",
    ["{}", '{"sha": 1}', '{"sha": "main"}', "[]", "null", "{", "\xff", "[" * 100_000, f'{{"sha": "{"0" * 39}"}}'],
)
def test_an_answer_of_another_form_is_refused(body: str) -> None:
    with answered(200, body.encode("latin-1")) as endpoint, pytest.raises(EndpointInvalid, match="speak the Hub's API"):
        HubClient(HubServer(endpoint), REPOSITORY).commit("main")


@pytest.mark.parametrize(
    "entry",
    [
        {},
        {"type": "file", "path": 1},
        {"type": "file", "path": "a", "size": -1},
        {"type": "file", "path": "a", "lfs": {"oid": "short", "size": 1}},
    ],
)
def test_a_list_with_an_entry_of_another_form_is_refused(entry: dict[str, Any]) -> None:
    with answered(200, json.dumps([entry]).encode()) as endpoint, pytest.raises(EndpointInvalid, match="and at 0"):
        HubClient(HubServer(endpoint), REPOSITORY).files("main")


@pytest.mark.parametrize("value", ["²", "9" * 5000, "-1", "soon", ""])
def test_numbers_that_are_none_are_no_trouble(value: str) -> None:
    headers = {"Retry-After": value, "RateLimit": f'"api";r=0;t={value}'}
    with answered(429, b"", headers) as endpoint, pytest.raises((SourceUnreachable, SourceRateLimited)):
        HubClient(HubServer(endpoint), REPOSITORY).commit("main")


@contextmanager
def answered(status: int, body: bytes, headers: dict[str, str] | None = None) -> Iterator[str]:
    """A server that answers so to everything."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            for name, value in (headers or {}).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *arguments: object) -> None:
            """Nothing is printed."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def test_a_short_answer_is_asked_for_again(hub: Hub) -> None:
    hub.faults.add(origin="hub", cut_after_bytes=10, count=2)
    whole(hub)
    assert hub.requests.count(path="*/revision/*") == 3


def test_a_limit_is_waited_for_as_it_is_asked(hub: Hub) -> None:
    hub.rates.limits["api"] = Limit(1, 0.2)
    client = asking(hub)
    client.commit("main")
    client.commit("main")
    assert client.budget.traffic.limited.seconds > 0
    assert client.budget.traffic.retries == 0


def test_nothing_but_the_endpoint_ever_gets_the_token(hub: Hub) -> None:
    hub.add_token(TOKEN, "somebody")
    repository = opened(hub, token=TOKEN)
    for name in repository.files:
        repository.read_ahead([name])
    assert hub.requests.count(origin="cdn") == len(weights_of(repository))
    assert hub.requests.leaks == []
    assert all(record.authorized for record in hub.requests.matching(origin="hub"))


def test_without_a_token_there_is_no_authorization(hub: Hub) -> None:
    whole(hub)
    assert not any(record.authorized for record in hub.requests)


def test_a_link_to_another_origin_is_refused_and_gets_nothing(hub: Hub) -> None:
    hub.add_token(TOKEN, "somebody")
    hub.faults.add(path="*/tree/*", set_headers={"Link": f'<{hub.cdn}/next>; rel="next"'})
    with pytest.raises(EndpointInvalid, match=f"next page of files is at {hub.cdn}"):
        opened(hub, token=TOKEN)
    assert hub.requests.count(origin="cdn") == 0


def test_the_api_does_not_follow_to_another_origin(hub: Hub) -> None:
    hub.faults.add(path="/api/*", status=307, set_headers={"Location": f"{hub.cdn}/api"})
    with pytest.raises(EndpointInvalid, match=f"redirects to {hub.cdn}"):
        asking(hub, TOKEN).commit("main")
    assert hub.requests.count(origin="cdn") == 0


def test_a_file_on_another_origin_is_asked_for_without_the_token(hub: Hub) -> None:
    hub.add_token(TOKEN, "somebody")
    client = asking(hub, TOKEN)
    hub.faults.add(origin="hub", path="config.json", status=302, set_headers={"Location": f"{hub.cdn}/repos/x"})
    with pytest.raises(SourceForbidden):
        client.content("main", "config.json", 10)
    found = client.resolve("main", "config.json")
    assert (found.url, found.headers) == (f"{hub.cdn}/repos/x", ())
    assert hub.requests.count(origin="cdn") == 1
    assert hub.requests.leaks == []


@pytest.mark.parametrize("place", ["file:///etc/hostname", "ftp://hub.example/x", "data:text/plain,x", "//", "x:y"])
def test_a_file_is_nowhere_but_on_a_network(hub: Hub, place: str) -> None:
    hub.faults.add(origin="hub", status=302, set_headers={"Location": place})
    client = asking(hub)
    for ask in (lambda: client.resolve("main", "config.json"), lambda: client.content("main", "config.json", 99)):
        with pytest.raises((EndpointInvalid, SourceUnreachable)):
            ask()


def test_a_token_that_rotates_is_asked_for_at_each_request(hub: Hub) -> None:
    private(hub)
    hub.repository(REPOSITORY).grants.add("somebody")
    tokens = [f"{TOKEN}{number}" for number in range(20)]
    for token in tokens:
        hub.add_token(token, "somebody")

    def rotating() -> str:
        return tokens.pop(0)

    repository = opened(hub, token=rotating)
    repository.read_ahead(repository.files)
    assert len(tokens) < 15


@pytest.mark.parametrize("header", ["X-Repo-Commit", "ETag", "X-Linked-ETag", "X-Linked-Size", "Date", "RateLimit"])
def test_a_mirror_may_leave_a_header_out(hub: Hub, header: str) -> None:
    hub.faults.add(drop_headers=(header,))
    whole(hub)


def test_a_port_where_nobody_listens_is_unreachable() -> None:
    server = HubServer(f"http://127.0.0.1:{free_port()}")
    with pytest.raises(SourceUnreachable, match=r"127.0.0.1:\d+ cannot be reached: .*refused.*egress rules"):
        HubClient(server, REPOSITORY).commit("main")


def test_a_name_that_nobody_has_is_unreachable() -> None:
    with pytest.raises(SourceUnreachable, match=r"http://hub\.invalid cannot be reached"):
        HubClient(HubServer("http://hub.invalid"), REPOSITORY).commit("main")


def test_headers_that_do_not_come_are_not_waited_for(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"{CLIENT}.TIMEOUT_SECONDS", 0.05)
    hub.faults.add(origin="hub", delay_seconds=3600)
    with pytest.raises(SourceUnreachable, match="timed out"):
        asking(hub).commit("main")


def test_a_body_that_stalls_is_asked_for_again(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"{CLIENT}.TIMEOUT_SECONDS", 0.1)
    hub.faults.add(path="*/tree/*", stall_after_bytes=10, count=1)
    whole(hub)
    assert hub.requests.count(path="*/tree/*") == 2


def test_a_body_that_trickles_ends(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"{CLIENT}.WHOLE_SECONDS", 0.0)
    monkeypatch.setattr(f"{CLIENT}.PIECE_BYTES", 1)
    hub.faults.add(path="*/tree/*", bytes_per_second=1000)
    with pytest.raises(SourceUnreachable, match="bytes came within"):
        whole(hub)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    (tmp_path / "authority").mkdir()
    return Authority(tmp_path / "authority")


def test_an_authority_of_ones_own_is_trusted_by_api_and_delivery(authority: Authority, tmp_path: Path) -> None:
    certificate, key = authority.issue("127.0.0.1")
    with Hub(certificate=certificate, key=key) as hub:
        hub.add_repository(REPOSITORY, small_source(tmp_path / "model"))
        repository = opened(hub, ca=authority.certificate)
        repository.read_ahead(repository.files)
        with pytest.raises(CertificateUntrusted, match=rf"{hub.endpoint} is not trusted: .*Give the certificate of"):
            opened(hub)


def test_a_certificate_of_another_host_is_not_trusted(authority: Authority, tmp_path: Path) -> None:
    certificate, key = authority.issue("elsewhere.example")
    with Hub(certificate=certificate, key=key) as hub, pytest.raises(CertificateUntrusted, match="not valid for"):
        opened(hub, ca=authority.certificate)


def test_plain_http_at_a_port_of_tls_is_a_sentence(authority: Authority) -> None:
    certificate, key = authority.issue("127.0.0.1")
    with Hub(certificate=certificate, key=key) as hub:
        server = HubServer(hub.endpoint.replace("https", "http"))
        with pytest.raises(SourceUnreachable):
            HubClient(server, REPOSITORY).commit("main")


class Proxy:
    """Forwards plain requests, and remembers what for."""

    def __init__(self) -> None:
        proxy = self
        self.asked: list[str] = []

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                proxy.asked.append(self.path)
                host, path = self.path.removeprefix("http://").split("/", 1)
                connection = http.client.HTTPConnection(host)
                headers = {name: value for name, value in self.headers.items() if name.lower() != "proxy-connection"}
                connection.request(self.command, f"/{path}", headers=headers)
                answer = connection.getresponse()
                self.send_response(answer.status)
                for name, value in answer.getheaders():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(answer.read())
                connection.close()

            do_HEAD = do_GET  # noqa: N815

            def log_message(self, format: str, *arguments: object) -> None:
                """Nothing is printed."""

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}"


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    made = Proxy()
    thread = threading.Thread(target=made.server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield made
    made.server.shutdown()
    thread.join()
    made.server.server_close()


def test_api_and_delivery_are_asked_by_way_of_the_proxy(
    hub: Hub, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", proxy.url)
    monkeypatch.setenv("http_proxy", proxy.url)
    repository = opened(hub)
    repository.read_ahead(repository.files)
    assert {f"http://{url.split('/')[2]}" for url in proxy.asked} == {hub.endpoint, hub.cdn}
    assert len(proxy.asked) == len(hub.requests)


def test_hosts_that_need_no_proxy_are_asked_directly(hub: Hub, proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"HTTP_PROXY": proxy.url, "http_proxy": proxy.url, "NO_PROXY": "127.0.0.1"}.items():
        monkeypatch.setenv(name, value)
    repository = opened(hub)
    repository.read_ahead(repository.files)
    assert proxy.asked == []


def test_a_refused_delivery_is_named_and_not_waited_for(checkpoint: Path) -> None:
    nobody = f"http://127.0.0.1:{free_port()}"
    with Hub(advertise_cdn=nobody) as hub:
        hub.add_repository(REPOSITORY, checkpoint)
        repository = opened(hub)
        with pytest.raises(SourceUnreachable, match=f"{nobody} cannot be reached"):
            repository.read_ahead(weights_of(repository)[:1])
        assert repository.client.budget.traffic.retries <= 2


def test_an_interrupt_ends_what_is_waited_for(hub: Hub) -> None:
    hub.faults.add(origin="hub", status=429, set_headers={"Retry-After": "250"})
    client, failures = asking(hub), list[BaseException]()

    def ask() -> None:
        try:
            client.commit("main")
        except SourceUnreachable as error:
            failures.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    until(lambda: len(hub.requests) == 1)
    client.budget.interrupt()
    thread.join()
    assert len(failures) == 1


@pytest.mark.parametrize("status", [401, 403])
def test_a_token_that_a_server_repeats_is_not_shown(hub: Hub, status: int) -> None:
    """Mirrors have tokens of other forms than the Hub's."""
    token = "cmVmdGtuOjAxOjE3Sup3rS3cret"
    hub.faults.add(status=status, set_headers={"X-Error-Message": f"Token {token} failed verification"})
    with pytest.raises(WorkerFailure) as refused:
        asking(hub, token).commit("main")
    assert "failed verification" in str(refused.value)
    assert token not in str(refused.value)


def test_a_proxy_s_password_is_not_shown(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http:/user:s3cretpw@127.0.0.1:1")
    monkeypatch.setenv("no_proxy", "")
    with pytest.raises(SourceUnreachable) as refused:
        asking(hub).commit("main")
    assert "s3cretpw" not in str(refused.value)
    assert "that of the proxy" in str(refused.value)
