"""The URL of a server, as requests to it begin."""

from urllib.parse import urlsplit


def endpoint_of(url: str, name: str) -> str:
    """Returns an endpoint as requests begin with it. Raises ValueError with a sentence that has nothing of it but its
    `name`."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.query or parts.fragment:
        raise ValueError(
            f"{name} has to be a URL such as https://hub.example.com, without a user, a password and a query."
        )
    return url.rstrip("/")
