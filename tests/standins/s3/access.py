"""Access keys: those that last, and temporary ones with a session token and an end."""

import secrets
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field


@dataclass
class Key:
    id: str
    secret: str = field(repr=False)
    token: str | None = field(default=None, repr=False)
    """Of a temporary key, which is nothing without it."""
    expires: float | None = None
    """When a temporary key ends, in seconds since 1970."""
    principal: str = ""
    """Whose it is, which is what buckets grant rights to; by default the key's own id."""

    def __post_init__(self) -> None:
        self.principal = self.principal or self.id


@dataclass
class Access:
    clock: Callable[[], float] = time.time
    _keys: dict[str, Key] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __iter__(self) -> Iterator[Key]:
        with self._lock:
            return iter(list(self._keys.values()))

    def get(self, id: str) -> Key | None:
        return self._keys.get(id)

    def add(self, key: Key) -> Key:
        with self._lock:
            self._keys[key.id] = key
        return key

    def issue(self, principal: str, lifetime_seconds: float) -> Key:
        """A temporary key that nobody had before."""
        token, expires = secrets.token_urlsafe(96), self.clock() + lifetime_seconds
        return self.add(Key(_id("ASIA"), secrets.token_urlsafe(30), token, expires, principal))

    def revoke(self, id: str) -> None:
        """It is unknown from now on. KeyError where it is already."""
        with self._lock:
            del self._keys[id]

    def expire(self, id: str) -> None:
        """A temporary key ends now. KeyError where there is none."""
        self._keys[id].expires = self.clock()

    def is_expired(self, key: Key) -> bool:
        return key.expires is not None and self.clock() >= key.expires


def new_key(id: str | None, secret: str | None, principal: str) -> Key:
    return Key(id or _id("AKIA"), secret or secrets.token_urlsafe(30), principal=principal)


def _id(start: str) -> str:
    return start + secrets.token_hex(8).upper()
