"""Keeps secrets out of messages: signatures in the queries of URLs, users and passwords in them, and tokens."""

import re
from typing import Final

USER: Final = r"(?:[^\s\"'<>()\[\]/?#]{0,300}@)?"
ADDRESS: Final = r"(?:\[[0-9a-f:.%]+\])?"
"""Of IPv6, in brackets."""
REST: Final = r"[^\s\"'<>()\[\]{}`|\\^]*"
URL: Final = re.compile(rf"\b(?P<scheme>[a-z][a-z0-9+.-]{{0,30}})://(?P<rest>{USER}{ADDRESS}{REST})", re.IGNORECASE)
TOKEN: Final = re.compile(r"\bhf_[A-Za-z0-9]{8,}|\b(bearer|basic)\s+[\w.~+/=-]{6,}", re.IGNORECASE)
SECRETS: Final = "signature|sig|token|credential|policy|expires|key-pair-id"
QUERY: Final = re.compile(rf"[?&]([\w.-]+=[^\s&\"']*&){{0,20}}[\w.-]*({SECRETS})[\w.-]*=[^\s\"']*", re.IGNORECASE)
DEBUG: Final = re.compile(r"\s*Debug source:.*", re.DOTALL)
"""What obstore appends to a message: the error's inner structure, with the URL once more."""
MAX_CHARACTERS: Final = 300
SHORTEST_SECRET: Final = 4
MOST_READ: Final = 8000
"""What is looked at of a message, so that a server's long answer takes no time."""


def without_secrets(text: str, *secrets: str | None) -> str:
    """Returns the text on one line, with each URL down to its scheme, host and path, with no token, and with none of
    these `secrets`, which a server may repeat."""
    text = text[:MOST_READ]
    for secret in secrets:
        if secret and len(secret) >= SHORTEST_SECRET:
            text = text.replace(secret, "…")
    text = URL.sub(_shown_url, DEBUG.sub("", text))
    text = TOKEN.sub("…", QUERY.sub("", text))
    text = " ".join(text.split())
    return text if len(text) <= MAX_CHARACTERS else f"{text[: MAX_CHARACTERS - 1]}…"


def host_of(url: str) -> str:
    """The scheme, host and port of a URL, which are no secret."""
    match = URL.match(url)
    if not match:
        return "an unnamed host"
    host = re.split(r"[/?#]", match["rest"], maxsplit=1)[0].rpartition("@")[2]
    return f"{match['scheme']}://{host}"


def _shown_url(match: re.Match[str]) -> str:
    path = re.split(r"[?#]", match["rest"], maxsplit=1)[0]
    host, slash, below = path.partition("/")
    return f"{match['scheme']}://{host.rpartition('@')[2]}{slash}{below}"
