"""S3 itself: whose a request is, what it may, and which part answers it."""

from dataclasses import dataclass

from . import signatures
from .access import Access, Key
from .buckets import Bucket, Buckets, Grant
from .errors import S3Refused, request_headers
from .listing import listed
from .messages import Request, Response
from .objects import Reading


@dataclass
class Settings:
    page_size: int = 1000
    """The most keys in one page of a listing."""
    region: str = "us-east-1"
    """Of requests for buckets that are not there, and of buckets that are made without one."""


@dataclass(frozen=True)
class S3Origin:
    access: Access
    buckets: Buckets
    settings: Settings
    name: str = "s3"

    def answer(self, request: Request) -> Response:
        try:
            return self._routed(request)
        except S3Refused as refused:
            bucket = self.buckets.get(request.bucket)
            if bucket and request.operation == "head-bucket":
                refused.headers["x-amz-bucket-region"] = bucket.region
            return refused.response()

    def _routed(self, request: Request) -> Response:
        """Nothing is written here, and the list of all buckets is not told."""
        if request.method not in ("GET", "HEAD") or not request.bucket:
            raise S3Refused("NotImplemented")
        bucket = self.buckets.get(request.bucket)
        key = signatures.key_of(request, self.access, bucket, self.settings.region)
        if bucket is None:
            raise S3Refused("NoSuchBucket", BucketName=request.bucket)
        rights = bucket.rights(key)
        _check_payer(request, bucket, key)
        if request.key:
            return Reading(bucket, rights).answer(request)
        if request.method == "HEAD":
            return _head_bucket(bucket, rights)
        if request.query.get("list-type") != "2":
            raise S3Refused("NotImplemented")
        if not rights.may_list:
            raise S3Refused("AccessDenied")
        return listed(bucket, request, self.settings.page_size)


def _check_payer(request: Request, bucket: Bucket, key: Key | None) -> None:
    """Who has no key cannot pay."""
    is_paid = request.headers.get("x-amz-request-payer") == "requester" and key is not None
    if bucket.requester_pays and not is_paid:
        raise S3Refused("AccessDenied")


def _head_bucket(bucket: Bucket, rights: Grant) -> Response:
    """Its region is in refusals too."""
    if not rights.may_list:
        raise S3Refused("AccessDenied")
    told = {"Content-Type": "application/xml", "x-amz-bucket-region": bucket.region}
    return Response(200, {**request_headers(), **told})
