"""S3's errors: a code, the status and the sentence that S3 has for it, and what else is in the XML."""

import secrets
from collections.abc import Mapping
from typing import Final
from xml.sax.saxutils import escape

from ..faulty_http import Refusal, Response, Text

DECLARATION: Final = '<?xml version="1.0" encoding="UTF-8"?>\n'
KNOWN: Final[Mapping[str, tuple[int, str]]] = {
    "AccessDenied": (403, "Access Denied"),
    "AuthorizationHeaderMalformed": (400, "The authorization header that you provided is not valid."),
    "BadDigest": (400, "The Content-MD5 you specified did not match what we received."),
    "ExpiredToken": (400, "The provided token has expired."),
    "InternalError": (500, "We encountered an internal error. Please try again."),
    "InvalidAccessKeyId": (403, "The AWS Access Key Id you provided does not exist in our records."),
    "InvalidArgument": (400, "Invalid Argument"),
    "InvalidRange": (416, "The requested range is not satisfiable"),
    "InvalidRequest": (400, "Invalid Request"),
    "InvalidToken": (400, "The provided token is malformed or otherwise invalid."),
    "MethodNotAllowed": (405, "The specified method is not allowed against this resource."),
    "NoSuchBucket": (404, "The specified bucket does not exist"),
    "NoSuchKey": (404, "The specified key does not exist."),
    "NoSuchVersion": (404, "The specified version does not exist."),
    "NotImplemented": (501, "A header you provided implies functionality that is not implemented"),
    "PermanentRedirect": (
        301,
        "The bucket you are attempting to access must be addressed using the specified endpoint. Please send all "
        "future requests to this endpoint.",
    ),
    "PreconditionFailed": (412, "At least one of the pre-conditions you specified did not hold"),
    "RequestTimeTooSkewed": (403, "The difference between the request time and the current time is too large."),
    "RequestTimeout": (400, "Your socket connection to the server was not read from or written to in time."),
    "ServiceUnavailable": (503, "Service is unable to handle request."),
    "SignatureDoesNotMatch": (
        403,
        "The request signature we calculated does not match the signature you provided. Check your key and signing "
        "method.",
    ),
    "SlowDown": (503, "Please reduce your request rate."),
    "XAmzContentSHA256Mismatch": (
        400,
        "The provided 'x-amz-content-sha256' header does not match what was computed.",
    ),
}


class S3Refused(Refusal):
    """An answer that is not what was asked for; names of further elements in the XML are given with `_` for `-`."""

    def __init__(
        self, code: str, message: str | None = None, headers: Mapping[str, str] = {}, **elements: object
    ) -> None:
        super().__init__(code)
        self.code = code
        self.status, usual = KNOWN[code]
        self.message = message or usual
        self.headers = dict(headers)
        self.elements = {name.replace("_", "-"): str(value) for name, value in elements.items()}

    def response(self) -> Response:
        return error_response(self.status, self.code, self.message, self.elements, self.headers)


def error_response(
    status: int, code: str, message: str, elements: Mapping[str, str] = {}, headers: Mapping[str, str] = {}
) -> Response:
    made = request_headers()
    named = {
        "Code": code,
        "Message": message,
        **elements,
        "RequestId": made["x-amz-request-id"],
        "HostId": made["x-amz-id-2"],
    }
    inside = "".join(element(name, value) for name, value in named.items())
    text = f"{DECLARATION}<Error>{inside}</Error>".encode()
    return Response(status, {**made, "Content-Type": "application/xml", **headers}, Text(text), error=code)


def request_headers() -> dict[str, str]:
    """What tells one request from another."""
    return {
        "x-amz-request-id": secrets.token_hex(8).upper(),
        "x-amz-id-2": secrets.token_urlsafe(48),
        "Server": "AmazonS3",
    }


def element(name: str, value: str) -> str:
    return f"<{name}>{escape(value)}</{name}>"
