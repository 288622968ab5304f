"""What can be wrong with a source on a network, each a class with a reason, and what to do about it."""

from neuronmodel_api import exits
from neuronmodel_api.reasons import Reason
from neuronmodel_worker.failures import BadInput, WorkerFailure


class SourceUnreachable(WorkerFailure):
    """Nothing came within the time that is waited: no name, no connection, no answer, or errors of the server alone."""

    reason = Reason.SOURCE_UNREACHABLE

    def __init__(self, what: str, why: str) -> None:
        super().__init__(
            f"{what} cannot be reached: {why}. Check the name resolution, the proxy and the egress rules of this "
            "machine or pod; it is tried again."
        )


class SourceRateLimited(WorkerFailure):
    """The server asked to wait for longer than is waited."""

    reason = Reason.SOURCE_RATE_LIMITED

    def __init__(self, what: str, seconds: float) -> None:
        super().__init__(
            f"{what} limits the rate of requests, and asks to wait for {seconds:,.0f} s more. Limits hold for an "
            "address without a token, and for a user with one: give a token, or start fewer at a time; it is tried "
            "again."
        )


class CertificateUntrusted(BadInput):
    """No authority that is trusted here has signed the server's certificate."""

    reason = Reason.CERTIFICATE_UNTRUSTED

    def __init__(self, host: str, why: str) -> None:
        super().__init__(
            f"The certificate of {host} is not trusted: {why}. Give the certificate of the authority that signed it; "
            "for a proxy that opens TLS, that of the proxy."
        )


class CertificatesBroken(BadInput):
    """What is given as certificates is none, or one of them is broken."""

    reason = Reason.CERTIFICATE_UNTRUSTED

    def __init__(self, why: str) -> None:
        super().__init__(
            f"The certificates of caBundle cannot be read: {why}. Put certificates in PEM there, and none that is cut "
            "off or garbled."
        )


class RepositoryNotFound(BadInput):
    """There is no such repository, or it may not be seen: servers answer the same to both."""

    reason = Reason.REPOSITORY_NOT_FOUND


class RevisionNotFound(BadInput):
    """The repository has no such branch, tag or commit."""

    reason = Reason.REVISION_NOT_FOUND


class TokenInvalid(BadInput):
    """The token is wrong or expired: the server knows nobody by it."""

    reason = Reason.SOURCE_UNAUTHORIZED


class SourceGated(BadInput):
    """Everybody may see the repository, and its files only those who asked for access and got it."""

    reason = Reason.SOURCE_GATED


class SourceForbidden(BadInput):
    """The token has not the scope, or the server refuses for a reason of its own."""

    reason = Reason.SOURCE_FORBIDDEN


class EndpointInvalid(BadInput):
    """What answers there does not speak the API that it should."""

    reason = Reason.ENDPOINT_INVALID


class NoRoomForColumns(WorkerFailure):
    """Tensors that are read column by column lie in a temporary file meanwhile."""

    reason = Reason.VOLUME_FULL
    exit_code = exits.NO_SPACE

    def __init__(self, directory: str, nbytes: int) -> None:
        super().__init__(
            f"There is no room for {nbytes:,} more bytes of temporary files in {directory}: tensors that are read "
            "column by column lie there until they are done. Free some, or set TMPDIR to a folder of a larger volume."
        )


class CredentialsInvalid(BadInput):
    """There are no credentials, or the server does not know or no longer accepts them."""

    reason = Reason.SOURCE_UNAUTHORIZED


class RegionWrong(BadInput):
    """The bucket is in another region than the one that is asked."""

    reason = Reason.REGION_WRONG

    def __init__(self, where: str, asked: str, found: str) -> None:
        right = f"it is in {found}: set region to {found}" if found else "set region to the one that it is in"
        super().__init__(f"The {where} is not in region {asked}; {right}.")
