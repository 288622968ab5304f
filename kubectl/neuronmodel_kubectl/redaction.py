"""What must not leave the cluster: values of variables that users set, fields and arguments that are named as secrets
are, annotations that repeat a whole object, and whatever looks like a token or a password in a text."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Any, Final

from neuronmodel_api import names

LEFT_OUT: Final = "(left out)"
SHORTEST_SECRET: Final = 6
"""Shorter values are not looked for in other texts: they occur in words."""
_HARMLESS: Final = (*names.RESERVED_ENV_PREFIXES, "NEURON_", "KUBERNETES_")
_DROPPED: Final = frozenset(
    {
        "managedFields",
        "kubectl.kubernetes.io/last-applied-configuration",
        f"{names.GROUP}/rendered",
        "kapp.k14s.io/original",
        "objectset.rio.cattle.io/applied",
    }
)
"""Copies of the object that are text, or compressed."""
_PLAIN: Final = re.compile(r"[A-Za-z]+|[\d.]+|[a-z]{2}(?:-[a-z]+)+-\d[a-z]?|/[\w./-]*")
"""Values that are a word, a number, a region or a path: looking for them elsewhere would make texts unreadable."""
_SECRETIVE: Final = (
    r"(?:api[-_]?key|access[-_]?key(?:[-_]?id)?|secret(?:[-_]?key)?|token|passw(?:or)?d|passphrase|credentials?)"
)
_SECRET_FIELD: Final = re.compile(rf"{_SECRETIVE}$", re.IGNORECASE)
_SECRET_FLAG: Final = re.compile(rf"--?[\w.-]*{_SECRETIVE}", re.IGNORECASE)
_NAMED: Final = rf"(?P<name>{_SECRETIVE}\\*[\"']?\s*[=:]\s*)"
"""A name that ends with such a word, and its equals sign or colon."""
_IN_A_QUERY: Final = r"(?:signature|sig|token|credential|policy|key-pair-id|secret|password|api[-_]?key)"
_PATTERNS: Final = tuple(
    (re.compile(pattern), put)
    for pattern, put in (
        (r"-----BEGIN [A-Z ]*PRIVATE KEY-----[\s\S]*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", LEFT_OUT),
        (r"\bhf_(?:(?:oauth|jwt)_[\w.-]{16,}|[A-Za-z0-9]{20,})", LEFT_OUT),
        (r"\beyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*", LEFT_OUT),
        (r"\b(?:AKIA|ASIA)[0-9A-Z]{12,}", LEFT_OUT),
        (r"(?i)(authorization\\*[\"']?\s*[=:]\s*\\*[\"']?)[^\r\n\"'\\]+", rf"\1{LEFT_OUT}"),
        (r"(?i)\b(Bearer|Basic)\s+[\w.~+/=-]{16,}", rf"\1 {LEFT_OUT}"),
        (r"(://)[^/\s\"'\\]*@", rf"\1{LEFT_OUT}@"),
        (rf"(?i)((?:[?&]|\\u0026)[\w.-]*{_IN_A_QUERY}=)[^&\s\"'\\]+", rf"\1{LEFT_OUT}"),
        (rf"(?i){_NAMED}(?P<quote>\\*[\"']).*?(?<!\\)(?P=quote)", rf"\g<name>\g<quote>{LEFT_OUT}\g<quote>"),
        (rf"(?i){_NAMED}\[[^\]\n]*\]", rf"\g<name>[{LEFT_OUT}]"),
        (rf"(?i){_NAMED}(?![\s\\\"'\[(])[^\s\"',;}}\])]+", rf"\g<name>{LEFT_OUT}"),
    )
)


class Redaction:
    """Remembers values of variables, so that they are left out of logs too."""

    def __init__(self) -> None:
        self._values: set[str] = set()

    def learn(self, objects: Iterable[Mapping[str, Any]]) -> None:
        """Finds the values that are left out, before the first text is written; of several lines each by itself, as a
        log puts times between them."""
        for made in objects:
            lines = (line.strip() for value in _variables(made) for line in value.splitlines())
            self._values.update(line for line in lines if len(line) >= SHORTEST_SECRET and not _PLAIN.fullmatch(line))

    def object(self, made: Any) -> Any:
        """Returns a copy without what must not leave."""
        if isinstance(made, Mapping):
            return self._mapping(made)
        if isinstance(made, list):
            return [
                LEFT_OUT if _is_flag_of(before, each) else self.object(each)
                for before, each in zip([None, *made], made, strict=False)
            ]
        return self._string(made) if isinstance(made, str) else made

    def _mapping(self, made: Mapping[str, Any]) -> dict[str, Any]:
        if _is_variable(made):
            return {**made, "value": LEFT_OUT}
        return {
            key: LEFT_OUT if isinstance(value, str) and _SECRET_FIELD.search(key) else self.object(value)
            for key, value in made.items()
            if key not in _DROPPED
        }

    def _string(self, text: str) -> str:
        """A text that is JSON is read as such: its values may be spelled otherwise."""
        if text[:1] in ("{", "["):
            with suppress(ValueError):
                return json.dumps(self.object(json.loads(text)))
        return self.text(text)

    def text(self, text: str) -> str:
        for value in sorted(self._values, key=len, reverse=True):
            text = text.replace(value, LEFT_OUT)
        for pattern, put in _PATTERNS:
            text = pattern.sub(put, text)
        return text


def _is_flag_of(before: Any, each: Any) -> bool:
    """Whether an argument is the value of a flag that is named as a secret is."""
    return isinstance(before, str) and isinstance(each, str) and bool(_SECRET_FLAG.fullmatch(before))


def _is_variable(made: Mapping[str, Any]) -> bool:
    """Whether it is a variable of a container that the operator did not set."""
    return (
        {"name", "value"} <= made.keys() <= {"name", "value", "valueFrom"}
        and isinstance(made["value"], str)
        and not str(made["name"]).startswith(_HARMLESS)
        and made["name"] not in names.RESERVED_ENV
    )


def mappings(made: Any) -> Iterator[Mapping[str, Any]]:
    """Yields every mapping in an object, itself among them."""
    if isinstance(made, Mapping):
        yield made
        for value in made.values():
            yield from mappings(value)
    elif isinstance(made, list):
        for each in made:
            yield from mappings(each)


def _variables(made: Any) -> Iterator[str]:
    return (each["value"] for each in mappings(made) if _is_variable(each))
