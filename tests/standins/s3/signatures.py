"""Signature version 4 in the Authorization header: whose a request is, and every way in which it is not.

In this order: the header's form, the region, the key, its token, the time, the signature, and last whether a temporary
key has expired.
"""

import calendar
import hashlib
import hmac
import re
import time
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote

from ..faulty_http import Request
from .access import Access, Key
from .buckets import Bucket
from .errors import S3Refused

ALGORITHM: Final = "AWS4-HMAC-SHA256"
SKEW_SECONDS: Final = 15 * 60
UNSIGNED: Final = "UNSIGNED-PAYLOAD"
_FIELD = re.compile(r"\s*(Credential|SignedHeaders|Signature)=([^,\s]+)\s*")
_TIME = re.compile(r"\d{8}T\d{6}Z")


@dataclass(frozen=True)
class _Signature:
    key_id: str
    date: str
    region: str
    service: str
    headers: tuple[str, ...]
    value: str

    @property
    def scope(self) -> str:
        return f"{self.date}/{self.region}/{self.service}/aws4_request"


def key_of(request: Request, access: Access, bucket: Bucket | None, region: str) -> Key | None:
    """The key that a request is signed with, None for one that is not signed; raises S3Refused."""
    if request.authorization is None:
        return None
    signature = _parsed(request.authorization)
    _check_scope(signature, bucket, region)
    key = access.get(signature.key_id)
    if key is None or (key.token and "x-amz-security-token" not in request.headers):
        raise S3Refused("InvalidAccessKeyId", AWSAccessKeyId=signature.key_id)
    if request.headers.get("x-amz-security-token") != key.token:
        raise S3Refused("InvalidToken", Token_0=request.headers["x-amz-security-token"])
    _check_time(request, signature, access.clock())
    _check_payload(request)
    _check_signature(request, signature, key)
    if access.is_expired(key):
        raise S3Refused("ExpiredToken", Token_0=key.token or "")
    return key


def key_id_of(authorization: str | None) -> str | None:
    """For the record; nothing of it is believed."""
    found = re.search(r"Credential=([^/,\s]+)/", authorization or "")
    return found[1] if found else None


def _parsed(authorization: str) -> _Signature:
    algorithm, _, rest = authorization.partition(" ")
    if algorithm != ALGORITHM:
        raise S3Refused("InvalidArgument", "Unsupported Authorization Type", ArgumentName="Authorization")
    found = {match[1]: match[2] for match in map(_FIELD.fullmatch, rest.split(",")) if match}
    scope = found.get("Credential", "").split("/")
    if len(found) != 3 or len(scope) != 5 or scope[4] != "aws4_request":
        raise S3Refused("AuthorizationHeaderMalformed")
    key_id, date, region, service, _ = scope
    return _Signature(key_id, date, region, service, tuple(found["SignedHeaders"].split(";")), found["Signature"])


def _check_time(request: Request, signature: _Signature, now: float) -> None:
    given = request.headers.get("x-amz-date", "")
    if not _TIME.fullmatch(given):
        raise S3Refused("AccessDenied", "AWS authentication requires a valid Date or x-amz-date header")
    if not given.startswith(signature.date):
        raise S3Refused("AuthorizationHeaderMalformed", "Invalid credential date. Date is not the same as X-Amz-Date.")
    if abs(calendar.timegm(time.strptime(given, "%Y%m%dT%H%M%SZ")) - now) > SKEW_SECONDS:
        server = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now))
        limit = SKEW_SECONDS * 1000
        raise S3Refused("RequestTimeTooSkewed", RequestTime=given, ServerTime=server, MaxAllowedSkewMilliseconds=limit)


def _check_scope(signature: _Signature, bucket: Bucket | None, region: str) -> None:
    start = "The authorization header is malformed; the"
    if signature.service != "s3":
        raise S3Refused("AuthorizationHeaderMalformed", f"{start} service must be 's3'.")
    expected = bucket.region if bucket else region
    if signature.region == expected:
        return
    if bucket and bucket.redirects:
        headers = {"x-amz-bucket-region": expected}
        endpoint = f"{bucket.name}.s3.{expected}.amazonaws.com"
        raise S3Refused("PermanentRedirect", None, headers, Endpoint=endpoint, Bucket=bucket.name)
    message = f"{start} region '{signature.region}' is wrong; expecting '{expected}'"
    raise S3Refused("AuthorizationHeaderMalformed", message, Region=expected)


def _check_payload(request: Request) -> None:
    told = request.headers.get("x-amz-content-sha256")
    if told is None:
        raise S3Refused("InvalidRequest", "Missing required header for this request: x-amz-content-sha256")
    if told.startswith("STREAMING-"):
        raise S3Refused("NotImplemented")
    computed = hashlib.sha256(request.body).hexdigest()
    if told not in (UNSIGNED, computed):
        elements = {"ClientComputedContentSHA256": told, "S3ComputedContentSHA256": computed}
        raise S3Refused("XAmzContentSHA256Mismatch", None, {}, **elements)


def _check_signature(request: Request, signature: _Signature, key: Key) -> None:
    unsigned = [name for name in request.headers if name.startswith("x-amz-") and name not in signature.headers]
    if unsigned or "host" not in signature.headers:
        message = "There were headers present in the request which were not signed"
        raise S3Refused("AccessDenied", message, HeadersNotSigned=", ".join(unsigned) or "host")
    canonical = _canonical(request, signature.headers)
    to_sign = "\n".join((ALGORITHM, request.headers["x-amz-date"], signature.scope, _sha256(canonical)))
    if not hmac.compare_digest(_signed(key.secret, signature, to_sign), signature.value):
        raise S3Refused(
            "SignatureDoesNotMatch",
            AWSAccessKeyId=key.id,
            StringToSign=to_sign,
            SignatureProvided=signature.value,
            CanonicalRequest=canonical,
        )


def _canonical(request: Request, names: tuple[str, ...]) -> str:
    """S3 quotes a path once, and each of its characters but slashes."""
    query = sorted((_quoted(name), _quoted(value)) for name, value in request.parameters)
    headers = [f"{name}:{' '.join(request.headers.get(name, '').split())}\n" for name in names]
    return "\n".join(
        (
            request.method,
            quote(request.path, safe="/-_.~"),
            "&".join(f"{name}={value}" for name, value in query),
            "".join(headers),
            ";".join(names),
            request.headers["x-amz-content-sha256"],
        )
    )


def _signed(secret: str, signature: _Signature, text: str) -> str:
    made = f"AWS4{secret}".encode()
    for part in signature.scope.split("/"):
        made = hmac.digest(made, part.encode(), hashlib.sha256)
    return hmac.digest(made, text.encode(), hashlib.sha256).hex()


def _quoted(text: str) -> str:
    return quote(text, safe="-_.~")


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
