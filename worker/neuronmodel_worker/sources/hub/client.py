"""The requests that are needed of the Hub: a revision's commit, a commit's files, and where a file's bytes are.

A client of our own, because the library's version is that of transformers in an image, its later ones do not fit there,
and each logs signed URLs (docs/decisions/0035). The token goes to the endpoint's own origin and nowhere else.
"""

import re
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.client import HTTPException, HTTPResponse
from typing import Annotated, Final, TypeVar, cast
from urllib.error import HTTPError, URLError
from urllib.parse import quote, urljoin, urlsplit
from urllib.request import (
    HTTPDefaultErrorHandler,
    HTTPErrorProcessor,
    HTTPHandler,
    HTTPRedirectHandler,
    HTTPSHandler,
    OpenerDirector,
    ProxyHandler,
    Request,
    UnknownHandler,
)

from pydantic import BaseModel, NonNegativeInt, StringConstraints, TypeAdapter, ValidationError

from neuronmodel_api.sources.hugging_face import PUBLIC_HUB
from neuronmodel_worker.io.untrusted_input import natural_number
from neuronmodel_worker.sources.hub.answers import Answer, HubRequest, raise_refusal
from neuronmodel_worker.sources.hub.signed_urls import lifetime_seconds
from neuronmodel_worker.sources.remote.certificates import no_certificates
from neuronmodel_worker.sources.remote.listed_file import ListedFile
from neuronmodel_worker.sources.remote.redaction import host_of, without_secrets
from neuronmodel_worker.sources.remote.refusals import CertificateUntrusted, EndpointInvalid, TokenInvalid
from neuronmodel_worker.sources.remote.retries import Retry, RetryBudget
from neuronmodel_worker.sources.remote.shared_property import shared_property

T = TypeVar("T")

TIMEOUT_SECONDS: Final = 20.0
"""Without one byte."""
WHOLE_SECONDS: Final = 300.0
PIECE_BYTES: Final = 1 << 20
PASSING: Final = (408, 425, 429, 500, 502, 503, 504)
"""Statuses after which another attempt may succeed."""
MAX_NAME_BYTES: Final = 255
USER_AGENT: Final = "neuronmodel"
MAX_ANSWER_BYTES: Final = 4 << 20
"""A page of a list has 1,000 entries of some 200 bytes."""
MAX_PAGES: Final = 50
MAX_REDIRECTS: Final = 6
REDIRECTS: Final = (301, 302, 303, 307, 308)
SHA256: Final = re.compile(r"[0-9a-f]{64}")
NEXT: Final = re.compile(r'<([^<>]+)>\s*;[^,]*\brel="?next"?', re.IGNORECASE)


def no_token() -> str | None:
    return None


@dataclass(frozen=True)
class HubServer:
    """An endpoint that speaks the Hub's API. `token` is asked for at each request, so that a rotated one is used."""

    endpoint: str = PUBLIC_HUB
    token: Callable[[], str | None] = no_token
    certificates: Callable[[], str | None] = no_certificates
    """Asked at the first request, for PEM text that is trusted in addition to the system's authorities."""

    @property
    def host(self) -> str:
        return host_of(self.endpoint)


class _Revision(BaseModel):
    sha: Annotated[str, StringConstraints(pattern=r"^([0-9a-f]{40}|[0-9a-f]{64})$")]


class _LargeFile(BaseModel):
    oid: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
    size: NonNegativeInt


class _TreeEntry(BaseModel):
    type: str
    path: str
    size: NonNegativeInt = 0
    oid: str = ""
    lfs: _LargeFile | None = None

    @property
    def is_at_the_top(self) -> bool:
        """Whether it is a file that a folder could hold as well; others are not listed."""
        name = self.path
        is_name = name.isprintable() and "/" not in name and name not in ("", ".", "..")
        return self.type == "file" and is_name and len(name.encode(errors="replace")) <= MAX_NAME_BYTES

    @property
    def file(self) -> ListedFile:
        if self.lfs:
            return ListedFile(self.path, self.lfs.size, self.oid, self.lfs.oid)
        return ListedFile(self.path, self.size, self.oid)


REVISION: Final = TypeAdapter(_Revision)
TREE: Final = TypeAdapter(list[_TreeEntry])


@dataclass(frozen=True)
class Resolved:
    """Where a file's bytes are. `headers` go with requests for them; `lifetime_seconds` is None where the server does
    not say how long the URL is good for."""

    url: str
    headers: tuple[tuple[str, str], ...]
    lifetime_seconds: float | None
    sha256: str | None
    nbytes: int | None


@dataclass
class HubClient:
    """Asks one server about one repository. Methods raise what is in `remote.refusals`."""

    server: HubServer
    repository: str
    budget: RetryBudget = field(init=False)

    def __post_init__(self) -> None:
        self.budget = RetryBudget(self.server.host)

    def commit(self, revision: str) -> str:
        """Returns the commit that a branch or a tag is at."""
        url = f"{self.server.endpoint}/api/models/{self.repository}/revision/{quote(revision, safe='')}"
        return self._parsed(REVISION, self._get(url, revision)).sha

    def files(self, commit: str) -> tuple[ListedFile, ...]:
        """Returns the files at the top of the repository."""
        found: list[ListedFile] = []
        url: str | None = (
            f"{self.server.endpoint}/api/models/{self.repository}/tree/{commit}?recursive=false&expand=false"
        )
        for _ in range(MAX_PAGES):
            answer = self._get(url or "", commit)
            found += (entry.file for entry in self._parsed(TREE, answer) if entry.is_at_the_top)
            url = self._next_page(answer)
            if url is None:
                return tuple(found)
        raise self._not_a_hub(f"the list of files has more than {MAX_PAGES} pages")

    def resolve(self, commit: str, name: str) -> Resolved:
        """Returns where the bytes of a file are."""
        url = f"{self.server.endpoint}/{self.repository}/resolve/{quote(commit, safe='')}/{quote(name)}"
        answer = self._ask("HEAD", url, commit, name)
        first = answer
        for _ in range(MAX_REDIRECTS):
            if answer.status not in REDIRECTS:
                return self._resolved(first, answer, answer.url, self.authorization())
            location = self._redirected(answer)
            if not _same_origin(location, self.server.endpoint):
                return self._resolved(first, answer, location, ())
            answer = self._ask("HEAD", location, commit, name)
            first = first if first.headers.get("X-Linked-Etag") else answer
        raise self._not_a_hub(f"{name} is redirected more than {MAX_REDIRECTS} times")

    def _resolved(self, first: Answer, last: Answer, url: str, headers: tuple[tuple[str, str], ...]) -> Resolved:
        digest = (first.headers.get("X-Linked-Etag") or "").removeprefix("W/").strip('"')
        nbytes = first.headers.get("X-Linked-Size") or (None if headers == () else last.headers.get("Content-Length"))
        return Resolved(
            url,
            headers,
            lifetime_seconds(url, last.headers.get("Date")),
            digest if SHA256.fullmatch(digest) else None,
            natural_number(nbytes),
        )

    def content(self, commit: str, name: str, limit: int) -> bytes:
        """Returns a small file, or its first `limit` bytes."""
        url = f"{self.server.endpoint}/{self.repository}/resolve/{quote(commit, safe='')}/{quote(name)}"
        for _ in range(MAX_REDIRECTS):
            answer = self._ask("GET", url, commit, name, limit=limit)
            if answer.status not in REDIRECTS:
                return answer.body
            url = self._redirected(answer)
        raise self._not_a_hub(f"{name} is redirected more than {MAX_REDIRECTS} times")

    def _redirected(self, answer: Answer) -> str:
        """Returns where a redirect of a file leads to. Raises EndpointInvalid for what is not on a network, such as a
        file of this machine."""
        url = self._joined(answer, answer.headers.get("Location", ""))
        scheme = urlsplit(url).scheme
        if scheme not in ("http", "https") or (scheme == "http" and self.server.endpoint.startswith("https:")):
            raise self._not_a_hub("a file is redirected to what is no URL, or to one without TLS")
        return url

    def _joined(self, answer: Answer, location: str) -> str:
        """A URL that an answer has, which may be relative to its own. Raises EndpointInvalid."""
        try:
            url: str = urljoin(answer.url, location)
            origin_of(url)
        except ValueError as error:
            raise self._not_a_hub("an answer leads to what is no URL") from error
        return url

    def _get(self, url: str, revision: str) -> Answer:
        for _ in range(MAX_REDIRECTS):
            answer = self._ask("GET", url, revision)
            if answer.status not in REDIRECTS:
                return answer
            url = self._joined(answer, answer.headers.get("Location", ""))
            if not _same_origin(url, self.server.endpoint):
                raise self._not_a_hub(f"the API redirects to {host_of(url)}")
        raise self._not_a_hub(f"the API redirects more than {MAX_REDIRECTS} times")

    def _parsed(self, adapter: TypeAdapter[T], answer: Answer) -> T:
        try:
            return adapter.validate_json(answer.body)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            place = ".".join(map(str, first["loc"])) or "its start"
            raise self._not_a_hub(
                f"the API's answer begins {answer.beginning}, and at {place}, {first['msg']}"
            ) from error

    def _next_page(self, answer: Answer) -> str | None:
        if not (found := NEXT.search(answer.headers.get("Link", ""))):
            return None
        url = self._joined(answer, found[1])
        if not _same_origin(url, self.server.endpoint):
            raise self._not_a_hub(f"the next page of files is at {host_of(url)}")
        return url

    def _not_a_hub(self, what: str) -> EndpointInvalid:
        return EndpointInvalid(
            f"{self.server.host} does not speak the Hub's API: {what}. Name an endpoint that does, without a path "
            "of a page."
        )

    def _ask(
        self, method: str, url: str, revision: str, name: str | None = None, limit: int = MAX_ANSWER_BYTES
    ) -> Answer:
        """Asks until there is an answer that means something; raises a refusal's failure."""
        answer = self.budget.run(lambda: self._try(method, url, limit))
        if answer.status >= 400:
            has_token = bool(self.server.token())
            raise_refusal(answer, HubRequest(self.server.host, self.repository, revision, name, has_token))
        return answer

    def _try(self, method: str, url: str, limit: int) -> Answer:
        """Asks once. Raises Retry and CertificateUntrusted."""
        headers = {"Accept-Encoding": "identity", "User-Agent": USER_AGENT}
        if _same_origin(url, self.server.endpoint):
            headers |= dict(self.authorization())
        request, host = Request(url, headers=headers, method=method), host_of(url)  # noqa: S310 - an http(s) URL
        try:
            with self._opened(request) as response:
                body = _read(response, limit)
                answer = Answer(url, response.status or 0, response.headers, body, self.server.token())
        except ssl.SSLCertVerificationError as error:
            raise CertificateUntrusted(host, error.verify_message) from error
        except ValueError:
            # A proxy's URL is in the message, with its password.
            raise Retry(f"{host}: the URL, or that of the proxy, is none") from None
        except (OSError, HTTPException) as error:
            raise Retry(without_secrets(f"{host}: {error or type(error).__name__}")) from None  # it may have the URL
        declared = natural_number(answer.headers.get("Content-Length"))
        if method != "HEAD" and declared is not None and len(answer.body) < min(declared, limit):
            raise Retry(f"{host} answered {len(answer.body):,} of {declared:,} bytes")
        if answer.status in PASSING:
            raise Retry(f"{host} answers {answer.status} ({answer.beginning})", answer.wait_seconds)
        return answer

    def _opened(self, request: Request) -> "HTTPResponse | HTTPError":
        """Returns every answer, those of redirects and errors too."""
        try:
            return cast("HTTPResponse", self._opener.open(request, timeout=TIMEOUT_SECONDS))
        except HTTPError as error:
            return error
        except URLError as error:
            if isinstance(error.reason, OSError):
                raise error.reason from error
            raise

    def authorization(self) -> tuple[tuple[str, str], ...]:
        """The header that proves who asks. Raises TokenInvalid for a token that no server can have given."""
        token = self.server.token()
        if token and not (token.isascii() and token.isprintable() and " " not in token):
            raise TokenInvalid(
                f"The token for {self.server.host} has characters that no token has, such as a line break in it. Put "
                "the token alone where it is read from."
            )
        return (("Authorization", f"Bearer {token}"),) if token else ()

    @shared_property
    def _opener(self) -> OpenerDirector:
        """With the proxies of the environment, and without its redirects, which would take the token along."""
        context = ssl.create_default_context()
        if certificates := self.server.certificates():
            context.load_verify_locations(cadata=certificates)
        opener = OpenerDirector()  # build_opener's would open files of this machine as well
        for handler in (
            ProxyHandler(),
            HTTPHandler(),
            HTTPSHandler(context=context),
            HTTPDefaultErrorHandler(),
            HTTPErrorProcessor(),
            UnknownHandler(),
            _Redirects(),
        ):
            opener.add_handler(handler)
        return opener


class _Redirects(HTTPRedirectHandler):
    """Returns a redirect as the answer that it is."""

    def redirect_request(self, *_: object) -> None:
        return None


def _same_origin(url: str, endpoint: str) -> bool:
    return origin_of(url) == origin_of(endpoint)


def origin_of(url: str) -> tuple[str, str | None, int | None]:
    """The scheme, host and port of a URL. Raises ValueError."""
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or {"http": 80, "https": 443}.get(parts.scheme)


def _read(response: "HTTPResponse | HTTPError", limit: int) -> bytes:
    """Reads at most `limit` bytes. Raises OSError for an answer that takes longer than small files do."""
    began, body = time.monotonic(), bytearray()
    while len(body) < limit and (data := response.read1(min(PIECE_BYTES, limit - len(body)))):
        body += data
        if time.monotonic() - began > WHOLE_SECONDS:
            raise TimeoutError(f"only {len(body):,} bytes came within {WHOLE_SECONDS:.0f} s")
    return bytes(body)
