"""Who gives temporary keys: STS for web identities, EKS Pod Identity, and the metadata of an instance."""

import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import parse_qsl

from ..faulty_http import KnownAs, Request, Response, Text, json_response, text_response
from .access import Access, Key
from .errors import DECLARATION, element

STS_NAMESPACE: Final = "https://sts.amazonaws.com/doc/2011-06-15/"
ROLES: Final = "/latest/meta-data/iam/security-credentials/"


@dataclass
class Issuer:
    access: Access
    lifetime_seconds: float = 3600.0
    """Of keys that are given from now on, whatever a request asks for."""
    num_issued: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def known_as(self, request: Request) -> KnownAs:
        return KnownAs()

    def issue(self, principal: str) -> Key:
        with self._lock:
            self.num_issued += 1
        return self.access.issue(principal, self.lifetime_seconds)


@dataclass
class IdentityTokens:
    """Tokens of service accounts, as they lie in files of pods."""

    valid: set[str] = field(default_factory=set)
    expired: set[str] = field(default_factory=set)
    accepts: Callable[[str], bool] | None = None
    """Asked of a token that is none of these, as AWS asks the cluster that issued it."""

    def is_valid(self, token: str) -> bool:
        return token in self.valid or (self.accepts is not None and self.accepts(token))

    def rotate(self, token: str) -> None:
        """It is valid, and all that were valid have expired."""
        self.expired = (self.expired | self.valid) - {token}
        self.valid = {token}


@dataclass
class Sts(Issuer):
    """AssumeRoleWithWebIdentity, as pods with a role for their service account (IRSA) ask for it."""

    tokens: IdentityTokens = field(default_factory=IdentityTokens)
    roles: set[str] = field(default_factory=set)
    """ARNs of roles that may be assumed; buckets grant rights to these."""
    name: str = field(default="sts", init=False)

    def answer(self, request: Request) -> Response:
        """It takes its parameters from the query as from a form."""
        form = _form(request)
        token, role = form.get("WebIdentityToken", ""), form.get("RoleArn", "")
        if form.get("Action") != "AssumeRoleWithWebIdentity":
            return _sts_error(400, "InvalidAction", "Could not find operation for this version")
        if not token or not role or not form.get("RoleSessionName"):
            return _sts_error(400, "ValidationError", "A value that is needed is missing")
        if token in self.tokens.expired:
            return _sts_error(400, "ExpiredTokenException", "Token expired: it must be used before its expiration")
        if not self.tokens.is_valid(token):
            message = "Couldn't retrieve verification key from your identity provider"
            return _sts_error(400, "InvalidIdentityToken", message)
        if role not in self.roles:
            return _sts_error(403, "AccessDenied", "Not authorized to perform sts:AssumeRoleWithWebIdentity")
        return _assumed(self.issue(role), form["RoleSessionName"])


@dataclass
class PodIdentity(Issuer):
    """The agent on a node, which is asked with the content of the pod's token file."""

    tokens: IdentityTokens = field(default_factory=IdentityTokens)
    role: str = "pod-role"
    name: str = field(default="pod-identity", init=False)

    def answer(self, request: Request) -> Response:
        """Errors are lines of text, with the code that EKS gave in parentheses."""
        if request.path != "/v1/credentials":
            return text_response("404 page not found", 404)
        token = request.authorization
        if not token:
            return text_response("Service account token cannot be empty", 400)
        if token in self.tokens.expired:
            return _pod_error("ExpiredTokenException", "Token is expired")
        if not self.tokens.is_valid(token):
            return _pod_error("InvalidTokenException", "The token included in the request is invalid.")
        return json_response({**_in_json(self.issue(self.role)), "AccountId": "123456789012"})


@dataclass
class Metadata(Issuer):
    """IMDSv2 of an instance: a token first, then the name of its role, then the role's keys."""

    role: str | None = "node-role"
    """None: the instance has none."""
    name: str = field(default="metadata", init=False)
    _sessions: dict[str, float] = field(default_factory=dict, repr=False)

    def answer(self, request: Request) -> Response:
        if request.path == "/latest/api/token":
            return self._session(request)
        ends = self._sessions.get(request.headers.get("x-aws-ec2-metadata-token", ""))
        if ends is None or self.access.clock() >= ends:
            return text_response("", 401)
        asked = request.path.rstrip("/")
        if self.role and asked == ROLES.rstrip("/"):
            return text_response(self.role)
        if self.role and asked == f"{ROLES}{self.role}":
            told = {"Code": "Success", "Type": "AWS-HMAC", "LastUpdated": _time(self.access.clock())}
            return json_response(told | _in_json(self.issue(self.role)))
        return text_response("", 404)

    def _session(self, request: Request) -> Response:
        seconds = request.headers.get("x-aws-ec2-metadata-token-ttl-seconds", "")
        if request.method != "PUT":
            return text_response("", 405)
        if not seconds.isdecimal() or not 1 <= int(seconds) <= 21600:
            return text_response("", 400)
        token = secrets.token_urlsafe(40)
        self._sessions[token] = self.access.clock() + int(seconds)
        return text_response(token, 200, {"X-Aws-Ec2-Metadata-Token-Ttl-Seconds": seconds})


def _form(request: Request) -> dict[str, str]:
    """The query and a form in the body together."""
    return request.query | dict(parse_qsl(request.body.decode("latin-1"), keep_blank_values=True))


def _in_json(key: Key) -> dict[str, str | None]:
    """With the names that Pod Identity and the metadata have in common."""
    keys = {"AccessKeyId": key.id, "SecretAccessKey": key.secret, "Token": key.token}
    return {**keys, "Expiration": _time(key.expires or 0.0)}


def _assumed(key: Key, session: str) -> Response:
    credentials = {
        "AccessKeyId": key.id,
        "SecretAccessKey": key.secret,
        "SessionToken": key.token or "",
        "Expiration": _time(key.expires or 0.0),
    }
    user = {"AssumedRoleId": f"AROA:{session}", "Arn": f"{key.principal}/{session}"}
    result = (
        f"<AssumedRoleUser>{_elements(user)}</AssumedRoleUser>"
        f"<Credentials>{_elements(credentials)}</Credentials><Audience>sts.amazonaws.com</Audience>"
    )
    action = "AssumeRoleWithWebIdentity"
    return _sts_xml(200, f"{action}Response", f"<{action}Result>{result}</{action}Result>{_metadata()}")


def _sts_error(status: int, code: str, message: str) -> Response:
    told = _elements({"Type": "Sender", "Code": code, "Message": message})
    response = _sts_xml(status, "ErrorResponse", f"<Error>{told}</Error>{element('RequestId', _request_id())}")
    response.error = code
    return response


def _sts_xml(status: int, name: str, inside: str) -> Response:
    text = f'{DECLARATION}<{name} xmlns="{STS_NAMESPACE}">{inside}</{name}>'
    return Response(status, {"Content-Type": "text/xml"}, Text(text.encode()))


def _metadata() -> str:
    return f"<ResponseMetadata>{element('RequestId', _request_id())}</ResponseMetadata>"


def _pod_error(code: str, message: str) -> Response:
    response = text_response(f"[{_request_id()}]: ({code}): {message}, fault: client\n", 400)
    response.error = code
    return response


def _elements(values: dict[str, str]) -> str:
    return "".join(element(name, value) for name, value in values.items())


def _request_id() -> str:
    return f"{secrets.token_hex(4)}-{secrets.token_hex(2)}-{secrets.token_hex(2)}-{secrets.token_hex(6)}"


def _time(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))
