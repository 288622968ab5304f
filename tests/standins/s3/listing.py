"""ListObjectsV2: a page of a bucket's keys, with what begins alike up to a delimiter as one entry."""

import base64
import binascii
import time
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import quote

from ..faulty_http import Request, Response, Text
from .buckets import Bucket, S3Object
from .errors import DECLARATION, S3Refused, element, request_headers

NAMESPACE = "http://s3.amazonaws.com/doc/2006-03-01/"


@dataclass(frozen=True)
class _Asked:
    prefix: str
    delimiter: str
    max_keys: int
    token: str | None
    start_after: str
    quotes: bool

    def shown(self, text: str) -> str:
        return quote(text, safe="/-_.~*") if self.quotes else text


def listed(bucket: Bucket, request: Request, page_size: int) -> Response:
    """At most `page_size` keys, whatever was asked for; raises S3Refused."""
    asked = _parsed(request.query)
    after = _decoded(asked.token) if asked.token else None
    entries = [entry for entry in _entries(bucket, asked) if after is None or entry[0].encode() > after.encode()]
    count = min(asked.max_keys, page_size)
    page, is_truncated = entries[:count], len(entries) > count > 0
    inside = _head(bucket, asked, len(page), is_truncated)
    if is_truncated:
        inside.append(element("NextContinuationToken", _encoded(page[-1][0])))
    inside += [_object(found, asked) for _, found in page if found]
    inside += [
        f"<CommonPrefixes>{element('Prefix', asked.shown(name))}</CommonPrefixes>" for name, found in page if not found
    ]
    text = f'{DECLARATION}<ListBucketResult xmlns="{NAMESPACE}">{"".join(inside)}</ListBucketResult>'
    headers = {**request_headers(), "Content-Type": "application/xml", "x-amz-bucket-region": bucket.region}
    charged = {"x-amz-request-charged": "requester"} if bucket.requester_pays else {}
    return Response(200, headers | charged, Text(text.encode()))


def _parsed(query: dict[str, str]) -> _Asked:
    number, encoding = query.get("max-keys", "1000"), query.get("encoding-type")
    if not number.isdecimal():
        message = "Provided max-keys not an integer or within integer range"
        raise S3Refused("InvalidArgument", message, ArgumentName="max-keys", ArgumentValue=number)
    if encoding not in (None, "url"):
        message = "Invalid Encoding Method specified in Request"
        raise S3Refused("InvalidArgument", message, ArgumentName="encoding-type", ArgumentValue=encoding)
    return _Asked(
        prefix=query.get("prefix", ""),
        delimiter=query.get("delimiter", ""),
        max_keys=int(number),
        token=query.get("continuation-token"),
        start_after=query.get("start-after", ""),
        quotes=encoding == "url",
    )


def _entries(bucket: Bucket, asked: _Asked) -> list[tuple[str, S3Object | None]]:
    """In order: keys with their objects, and common prefixes with None."""
    made: dict[str, S3Object | None] = {}
    for found in bucket:
        key = found.key
        if not key.startswith(asked.prefix) or key.encode() <= asked.start_after.encode():
            continue
        end = key.find(asked.delimiter, len(asked.prefix)) if asked.delimiter else -1
        if end < 0:
            made[key] = found
        else:
            made[key[: end + len(asked.delimiter)]] = None
    return list(made.items())


def _head(bucket: Bucket, asked: _Asked, count: int, is_truncated: bool) -> list[str]:
    inside = [element("Name", bucket.name), element("Prefix", asked.shown(asked.prefix))]
    given: list[tuple[str, str, Callable[[str], str]]] = [
        ("Delimiter", asked.delimiter, asked.shown),
        ("StartAfter", asked.start_after, asked.shown),
        ("ContinuationToken", asked.token or "", str),
        ("EncodingType", "url" if asked.quotes else "", str),
    ]
    inside += [element(name, shown(value)) for name, value, shown in given if value]
    inside += [element("KeyCount", str(count)), element("MaxKeys", str(asked.max_keys))]
    return [*inside, element("IsTruncated", str(is_truncated).lower())]


def _object(found: S3Object, asked: _Asked) -> str:
    modified = time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime(found.modified))
    inside = [element("Key", asked.shown(found.key)), element("LastModified", modified)]
    if found.etag is not None:
        inside.append(element("ETag", f'"{found.etag}"'))
    inside += [element("Size", str(found.size)), element("StorageClass", "STANDARD")]
    return f"<Contents>{''.join(inside)}</Contents>"


def _encoded(name: str) -> str:
    """Not for clients to read."""
    return base64.urlsafe_b64encode(b"after " + name.encode()).decode()


def _decoded(token: str) -> str:
    try:
        start, name = base64.urlsafe_b64decode(token).decode().split(" ", 1)
        if start == "after":
            return name
    except (binascii.Error, ValueError):
        pass
    message = "The continuation token provided is incorrect"
    raise S3Refused("InvalidArgument", message, ArgumentName="continuation-token")
