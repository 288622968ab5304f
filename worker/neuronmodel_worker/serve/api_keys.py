"""The API key: read from its file, read again when the file changes, and compared in constant time."""

import hmac
from pathlib import Path

from neuronmodel_api.reasons import Reason
from neuronmodel_worker.failures import BadInput


class ApiKeyInvalid(BadInput):
    reason = Reason.API_KEY_INVALID


class ApiKey:
    """The current API key.

    The constructor raises ApiKeyInvalid. A file that later becomes empty or unreadable leaves the last key in force.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        try:
            self._seen = self._stamp()
            self._key = self._read()
        except OSError as error:
            raise ApiKeyInvalid(
                f"The API key in {file} cannot be read: {error.strerror or error}. Check spec.serving.apiKeySecretRef."
            ) from error
        if not self._key:
            raise ApiKeyInvalid(f"The API key in {file} is empty. Put a key into the Secret.")

    def admits(self, authorization: str | None) -> bool:
        """Returns whether an Authorization header carries the key."""
        self._refresh()
        scheme, _, given = (authorization or "").partition(" ")
        return scheme.lower() == "bearer" and hmac.compare_digest(given.strip().encode(), self._key)

    def _refresh(self) -> None:
        try:
            if (stamp := self._stamp()) != self._seen:
                self._key = self._read() or self._key
                self._seen = stamp
        except OSError:
            return

    def _stamp(self) -> tuple[int, int, int]:
        """Identifies the file's version. A Secret volume replaces the file (another inode); an editor may write into
        it."""
        stat = self._file.stat()
        return stat.st_ino, stat.st_mtime_ns, stat.st_size

    def _read(self) -> bytes:
        return self._file.read_bytes().strip()
