"""The stand-in's own API, for tests in other processes: what came, what is to go wrong, who may read what."""

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from .access import Key
from .buckets import Bucket, Grant
from .messages import Request, Response, json_response

if TYPE_CHECKING:
    from .server import S3

Given = dict[str, Any]
_SETTINGS = ("region", "versioned", "requester_pays", "redirects", "etags", "part_bytes")


class _NotThere(Exception):
    """There is nothing at this path."""


class ControlOrigin:
    name = "control"

    def __init__(self, s3: "S3") -> None:
        self._s3 = s3
        self._answers: dict[tuple[str, str], Callable[[Given], object]] = {
            ("GET", ""): lambda given: s3.described(),
            ("GET", "requests"): lambda given: s3.requests.described(),
            ("POST", "reset"): self._reset,
            ("GET", "faults"): lambda given: [rule.described() for rule in s3.faults],
            ("POST", "faults"): lambda given: s3.faults.add(**given).described(),
            ("DELETE", "faults"): self._remove_faults,
            ("GET", "buckets"): lambda given: [_described(bucket) for bucket in s3.buckets],
            ("POST", "keys"): self._add_key,
            ("DELETE", "keys"): lambda given: s3.revoke(given["id"]),
            ("POST", "expire"): lambda given: s3.access.expire(given["id"]),
            ("POST", "settings"): self._set,
            ("POST", "down"): lambda given: s3.down(),
            ("POST", "up"): lambda given: s3.up(),
        }
        self._named: dict[tuple[str, str], Callable[[str, Given], object]] = {
            ("POST", "buckets"): self._change_bucket,
            ("POST", "objects"): self._put,
            ("DELETE", "objects"): lambda name, given: s3.bucket(name).delete(given["key"]),
        }

    def answer(self, request: Request) -> Response:
        """400 with a sentence for what is not understood."""
        try:
            given = json.loads(request.body) if request.body else {}
            return json_response(self._answer(request, given))
        except _NotThere:
            return json_response({"error": f"there is no {request.method} {request.path}"}, 404)
        except (KeyError, TypeError, ValueError, OSError) as error:
            return json_response({"error": f"{type(error).__name__}: {error}"}, 400)

    def _answer(self, request: Request, given: Given) -> object:
        name, _, rest = request.target.strip("/").partition("/")
        if rest and (request.method, name) in self._named:
            return self._named[request.method, name](unquote(rest), given)
        if rest or (request.method, name) not in self._answers:
            raise _NotThere
        return self._answers[request.method, name](given)

    def _reset(self, given: Given) -> None:
        """Requests and faults are forgotten; buckets, keys and settings stay."""
        self._s3.requests.clear()
        self._s3.faults.clear()

    def _remove_faults(self, given: Given) -> None:
        if "id" in given:
            self._s3.faults.remove(given["id"])
        else:
            self._s3.faults.clear()

    def _change_bucket(self, name: str, given: Given) -> object:
        """Made where it is not there; a `folder` is added below the `prefix`, after all else was set."""
        given = dict(given)
        folder, prefix = given.pop("folder", None), given.pop("prefix", "")
        changes = {name: _granted(name, value) for name, value in given.items()}
        bucket = self._s3.buckets.get(name) or self._s3.add_bucket(name)
        for attribute, value in changes.items():
            setattr(bucket, attribute, value)
        if folder is not None:
            bucket.add_folder(folder, prefix)
        return _described(bucket)

    def _put(self, name: str, given: Given) -> object:
        """An object of a `file`, or of a `text`."""
        content = given["text"].encode() if "text" in given else given["file"]
        made = self._s3.bucket(name).put(given["key"], content)
        return {"key": made.key, "etag": made.etag, "version": made.version, "size": made.size}

    def _add_key(self, given: Given) -> object:
        """A temporary one where it is given a `lifetime_seconds`."""
        if "lifetime_seconds" in given:
            return _key(self._s3.add_temporary_key(**given))
        return _key(self._s3.add_key(**given))

    def _set(self, given: Given) -> None:
        """Of S3, and below the names of the others: `{"sts": {"lifetime_seconds": 2, "token": "new"}}`."""
        s3 = self._s3
        for name, value in given.items():
            if name in ("sts", "pod_identity", "metadata"):
                for inner, inner_value in value.items():
                    _set_of_issuer(getattr(s3, name), inner, inner_value)
            elif name in ("page_size", "region"):
                setattr(s3.settings, name, value)
            else:
                raise ValueError(f"there is no setting {name!r}")


def _set_of_issuer(issuer: Any, name: str, value: Any) -> None:
    if name == "token" and hasattr(issuer, "tokens"):
        issuer.tokens.rotate(value)
    elif name in ("lifetime_seconds", "role", "roles") and hasattr(issuer, name):
        setattr(issuer, name, set(value) if name == "roles" else value)
    else:
        raise ValueError(f"{issuer.name} has no {name!r}")


def _granted(name: str, value: Any) -> Any:
    if name == "public":
        return Grant(**value)
    if name == "grants":
        return {principal: Grant(**grant) for principal, grant in value.items()}
    if name not in _SETTINGS:
        raise ValueError(f"a bucket has no {name!r}")
    return value


def _described(bucket: Bucket) -> Given:
    objects = {found.key: {"size": found.size, "etag": found.etag, "version": found.version} for found in bucket}
    return {"name": bucket.name, **{name: getattr(bucket, name) for name in _SETTINGS}, "objects": objects}


def _key(key: Key) -> Given:
    return {"id": key.id, "secret": key.secret, "token": key.token, "expires": key.expires}
