"""S3 itself: whose a request is, what it may, and which part answers it."""

from dataclasses import dataclass

from ..faulty_http import KnownAs, Request, Response
from . import signatures
from .access import Access, Key
from .addressing import Address, address_of
from .buckets import Bucket, Buckets, Grant
from .errors import S3Refused, request_headers
from .listing import listed
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

    def known_as(self, request: Request) -> KnownAs:
        address = address_of(request)
        return KnownAs(address.key, address.operation)

    def answer(self, request: Request) -> Response:
        address = address_of(request)
        try:
            return self._routed(request, address)
        except S3Refused as refused:
            bucket = self.buckets.get(address.bucket)
            if bucket and address.operation == "head-bucket":
                refused.headers["x-amz-bucket-region"] = bucket.region
            return refused.response()

    def _routed(self, request: Request, address: Address) -> Response:
        """Nothing is written here, and the list of all buckets is not told."""
        if request.method not in ("GET", "HEAD") or not address.bucket:
            raise S3Refused("NotImplemented")
        bucket = self.buckets.get(address.bucket)
        key = signatures.key_of(request, self.access, bucket, self.settings.region)
        if bucket is None:
            raise S3Refused("NoSuchBucket", BucketName=address.bucket)
        rights = bucket.rights(key)
        _check_payer(request, bucket, key)
        if address.key:
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
