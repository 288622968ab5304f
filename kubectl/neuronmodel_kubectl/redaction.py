"""What must not leave the cluster: values of variables that users set, annotations that repeat a whole object, and
whatever looks like a token or a password in a text."""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from neuronmodel_api import names

LEFT_OUT: Final = "(left out)"
SHORTEST_SECRET: Final = 6
"""Shorter values are not looked for in other texts: they occur in words."""
_HARMLESS: Final = (*names.RESERVED_ENV_PREFIXES, "NEURON_", "KUBERNETES_")
_DROPPED: Final = frozenset({"managedFields", "kubectl.kubernetes.io/last-applied-configuration"})
_SECRETIVE: Final = r"(?:api[-_]?key|access[-_]?key(?:[-_]?id)?|secret|token|passw(?:or)?d|credential|authorization)"
_PATTERNS: Final = tuple(
    (re.compile(pattern, re.IGNORECASE), put)
    for pattern, put in (
        (r"\bhf_[A-Za-z0-9]{8,}", LEFT_OUT),
        (r"\b(?:AKIA|ASIA)[0-9A-Z]{12,}", LEFT_OUT),
        (r"\b(Bearer|Basic)\s+[^\s\"',]{4,}", rf"\1 {LEFT_OUT}"),
        (r"(://)[^/\s@\"']+@", rf"\1{LEFT_OUT}@"),
        (r"([?&]X-Amz-[A-Za-z-]+=)[^&\s\"']+", rf"\1{LEFT_OUT}"),
        (rf"([\"']?[\w.-]*{_SECRETIVE}[\w.-]*[\"']?\s*[=:]\s*[\"']?)(?!\s)[^\s\"',;}}\])]+", rf"\1{LEFT_OUT}"),
    )
)


class Redaction:
    """Remembers values of variables, so that they are left out of logs too."""

    def __init__(self) -> None:
        self._values: set[str] = set()

    def learn(self, objects: Iterable[Mapping[str, Any]]) -> None:
        """Finds the values that are left out, before the first text is written."""
        for made in objects:
            self._values.update(value for value in _variables(made) if len(value) >= SHORTEST_SECRET)

    def object(self, made: Any) -> Any:
        """Returns a copy without what must not leave."""
        if isinstance(made, Mapping):
            if _is_variable(made):
                return {**made, "value": LEFT_OUT}
            return {key: self.object(value) for key, value in made.items() if key not in _DROPPED}
        if isinstance(made, list):
            return [self.object(each) for each in made]
        return self.text(made) if isinstance(made, str) else made

    def text(self, text: str) -> str:
        for value in sorted(self._values, key=len, reverse=True):
            text = text.replace(value, LEFT_OUT)
        for pattern, put in _PATTERNS:
            text = pattern.sub(put, text)
        return text


def _is_variable(made: Mapping[str, Any]) -> bool:
    """Whether it is a variable of a container that the operator did not set."""
    return (
        {"name", "value"} <= made.keys() <= {"name", "value", "valueFrom"}
        and isinstance(made["value"], str)
        and not str(made["name"]).startswith(_HARMLESS)
        and made["name"] not in names.RESERVED_ENV
    )


def _variables(made: Any) -> Iterator[str]:
    if isinstance(made, Mapping):
        if _is_variable(made):
            yield made["value"]
        for value in made.values():
            yield from _variables(value)
    elif isinstance(made, list):
        for each in made:
            yield from _variables(each)
