"""The stand-in's own API, for tests in other processes: what came, what is to go wrong, who may read what."""

from typing import TYPE_CHECKING, Any

from ..faulty_http import ControlOrigin, Given
from .access import Key
from .buckets import Bucket, Grant

if TYPE_CHECKING:
    from .server import S3

_SETTINGS = ("region", "versioned", "requester_pays", "redirects", "etags", "part_bytes")


class S3Control(ControlOrigin):
    def __init__(self, s3: "S3") -> None:
        super().__init__(s3)
        self._s3 = s3
        self.answers |= {
            ("GET", "buckets"): lambda given: [_described(bucket) for bucket in s3.buckets],
            ("POST", "keys"): self._add_key,
            ("DELETE", "keys"): lambda given: s3.revoke(given["id"]),
            ("POST", "expire"): lambda given: s3.access.expire(given["id"]),
            ("POST", "settings"): self._set,
        }
        self.named |= {
            ("POST", "buckets"): self._change_bucket,
            ("POST", "objects"): self._put,
            ("DELETE", "objects"): lambda name, given: s3.bucket(name).delete(given["key"]),
        }

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
