"""What S3's errors mean (docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html).

obstore gives the whole answer as text: what went wrong is in its XML.
"""

import re
from dataclasses import dataclass
from typing import Final

from neuronmodel_api.reasons import Reason
from neuronmodel_worker.failures import BadInput, WorkerFailure
from neuronmodel_worker.io.untrusted_input import shown
from neuronmodel_worker.sources.remote.byte_ranges import cause_of
from neuronmodel_worker.sources.remote.refusals import (
    CredentialsInvalid,
    EndpointInvalid,
    RegionWrong,
    SourceForbidden,
)
from neuronmodel_worker.sources.remote.retries import Retry

CODE: Final = re.compile(r"<Code>(?P<code>\w{1,64})</Code>")
MESSAGE: Final = re.compile(r"<Message>(?P<message>[^<]{1,300})</Message>")
REGION: Final = re.compile(r"<Region>(?P<region>[\w-]{1,40})</Region>|expecting '(?P<expected>[\w-]{1,40})'")
STATUS: Final = re.compile(r"\bstatus(?: code)?:? (?P<status>[1-5]\d\d)\b")
WITHOUT_LOCATION: Final = "redirect without LOCATION"
"""What obstore says of a 301, which S3 answers for another region."""
OF_CREDENTIALS: Final = frozenset(
    {
        "InvalidAccessKeyId",
        "SignatureDoesNotMatch",
        "ExpiredToken",
        "ExpiredTokenException",
        "InvalidToken",
        "InvalidIdentityToken",
        "TokenRefreshRequired",
        "RequestTimeTooSkewed",
    }
)
LIMITING: Final = frozenset(
    {"SlowDown", "TooManyRequests", "Throttling", "ThrottlingException", "RequestLimitExceeded"}
)
PASSING: Final = frozenset({"ServiceUnavailable", "InternalError", "InternalFailure", "RequestTimeout"})
LIMIT_SECONDS: Final = 1.0
"""S3 does not say for how long; pauses grow beyond it."""
REQUEST: Final = re.compile(r"\bError performing (?P<method>\w+) (?P<url>\S+) in ")
IDENTITIES: Final = (
    (re.compile(r"POST "), "AWS STS, which the role of the service account is taken from,"),
    (re.compile(r"\w+ \S+/v1/credentials$"), "The agent of EKS Pod Identity"),
    (re.compile(r"\w+ \S+/latest/(api/token|meta-data/.*)$"), "The instance metadata"),
)
"""Requests for the pod's own credentials: of a bucket, obstore sends no POST here, and not for such a path."""
UNREADABLE_IDENTITY: Final = "Failed to read token file"
ELSEWHERE: Final = frozenset(
    {"AuthorizationHeaderMalformed", "PermanentRedirect", "IllegalLocationConstraintException"}
)


class BucketNotFound(BadInput):
    """There is no such bucket, or no checkpoint right below the prefix."""

    reason = Reason.SOURCE_NOT_FOUND


@dataclass(frozen=True)
class S3Error:
    """An error of obstore's, read."""

    text: str

    @property
    def code(self) -> str:
        found = CODE.search(self.text)
        return found["code"] if found else ""

    @property
    def status(self) -> int:
        found = STATUS.search(self.text)
        return int(found["status"]) if found else 0

    @property
    def is_of_head(self) -> bool:
        """Whether the answer was to a request for the state of an object, which has no body with a code."""
        found = REQUEST.search(self.text)
        return found is not None and found["method"] == "HEAD"

    @property
    def identity(self) -> str:
        """Who was asked for credentials, where that failed; empty where it was the bucket's server."""
        if (found := REQUEST.search(self.text)) is None:
            return ""
        asked = f"{found['method']} {found['url']}"
        return next((who for request, who in IDENTITIES if request.match(asked)), "")

    @property
    def region(self) -> str:
        """Where the bucket is, as the server says."""
        found = REGION.search(self.text)
        return (found["region"] or found["expected"]) if found else ""

    @property
    def words(self) -> str:
        """The server's own, to be shown."""
        found = MESSAGE.search(self.text)
        text = found["message"] if found else cause_of(self.text)[:200]
        return shown(text.strip().rstrip("."))


def failure_of(error: S3Error, where: str, region: str) -> WorkerFailure | Retry:
    """Returns what an error means: a failure, or that another attempt may succeed. `where` names the bucket and its
    server, `region` the one that was asked."""
    code = error.code
    if error.identity or UNREADABLE_IDENTITY in error.text:
        return _failure_of_identity(error, where)
    if code in ELSEWHERE or WITHOUT_LOCATION in error.text:
        return RegionWrong(where, region, error.region)
    if code in OF_CREDENTIALS:
        return CredentialsInvalid(f"{where} does not accept the credentials: {code}, {error.words}.")
    if code == "NoSuchBucket":
        return BucketNotFound(f"There is no bucket at {where}. Correct its name, or the endpoint.")
    if code in ("AccessDenied", "AllAccessDisabled", "AccountProblem") or error.status in (401, 403):
        return SourceForbidden(
            f"{where} refuses it: {error.words or code}. The credentials need s3:ListBucket on the bucket and "
            "s3:GetObject below the prefix; of a bucket whose requester pays, set requesterPays."
        )
    if (retry := _passing(error)) is not None:
        return retry
    return EndpointInvalid(
        f"{where} answers {code or error.status}: {error.words}. Name an endpoint that speaks the API of S3."
    )


def _passing(error: S3Error, at: str | None = None) -> Retry | None:
    """Returns that another attempt may succeed, if so: at once, or after a pause where too much was asked for."""
    why = error.words if error.code else cause_of(error.text)[:300]
    if error.code in LIMITING or error.status == 429 or (error.status == 503 and error.is_of_head):
        return Retry(why, LIMIT_SECONDS, at)
    return Retry(why, at=at) if error.code in PASSING or error.status >= 500 or not error.status else None


def _failure_of_identity(error: S3Error, where: str) -> WorkerFailure | Retry:
    if UNREADABLE_IDENTITY in error.text:
        return CredentialsInvalid(
            f"The pod's own identity, which is to read {where}, has no token: {cause_of(error.text)[:200]}. Look "
            "whether the webhook that gives pods their tokens runs, and make the pod again."
        )
    return _passing(error, error.identity) or CredentialsInvalid(
        f"{error.identity} gives no credentials for {where}: {error.code or error.status}, {error.words}. Let the "
        "role exist and trust the service account of spec.worker.serviceAccountName."
    )
