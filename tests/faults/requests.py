"""Requests to a Kubernetes API server, read from their method, path and query."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

WRITES: Final = frozenset({"create", "update", "patch", "delete", "deletecollection"})
_VERBS: Final = {"POST": "create", "PUT": "update", "PATCH": "patch"}


@dataclass(frozen=True)
class ApiRequest:
    """What a request asks for, in the words of RBAC."""

    verb: str
    group: str
    resource: str
    namespace: str | None = None
    name: str | None = None
    subresource: str | None = None

    @property
    def is_write(self) -> bool:
        return self.verb in WRITES

    @property
    def is_watch(self) -> bool:
        return self.verb == "watch"

    def __str__(self) -> str:
        what = f"{self.resource}/{self.subresource}" if self.subresource else self.resource
        return " ".join(filter(None, (self.verb, what, self.name)))


def read_request(method: str, path: str, query: Mapping[str, str]) -> ApiRequest | None:
    """Returns what is asked for; None for a path that names no resource, such as /version."""
    parts = [part for part in path.split("/") if part]
    if parts[:1] == ["api"] and len(parts) > 2:
        group, rest = "", parts[2:]
    elif parts[:1] == ["apis"] and len(parts) > 3:
        group, rest = parts[1], parts[3:]
    else:
        return None
    namespace = None
    if rest[0] == "namespaces" and len(rest) > 2:
        namespace, rest = rest[1], rest[2:]
    resource, name, subresource = (*rest[:3], None, None)[:3]
    return ApiRequest(_verb(method, name, query), group, resource or "", namespace, name, subresource)


def _verb(method: str, name: str | None, query: Mapping[str, str]) -> str:
    if method == "DELETE":
        return "delete" if name else "deletecollection"
    if method in _VERBS:
        return _VERBS[method]
    if query.get("watch", "").lower() in ("1", "true"):
        return "watch"
    return "get" if name else "list"


@dataclass(frozen=True)
class Match:
    """Which requests a fault befalls; None is any."""

    verbs: frozenset[str] | None = None
    resource: str | None = None
    namespace: str | None = None
    name: str | None = None
    subresource: str | None = None
    """The empty string: the object itself."""

    def holds(self, request: ApiRequest) -> bool:
        return (
            (self.verbs is None or request.verb in self.verbs)
            and self.resource in (None, request.resource)
            and self.namespace in (None, request.namespace)
            and self.name in (None, request.name)
            and self.subresource in (None, request.subresource or "")
        )


@dataclass(frozen=True)
class WriteId:
    """A write, by its number among those of its kind: the same in each run of the same story."""

    what: str
    """Verb and resource; of an Event its reason, of a child its component too."""
    number: int

    def __str__(self) -> str:
        return f"{self.what} #{self.number}"


@dataclass
class NumberedWrites:
    """The writes that were asked for, whether they reached the API server or not."""

    ids: list[WriteId] = field(default_factory=list)
    _numbers: Counter[str] = field(default_factory=Counter)

    def id_of(self, request: ApiRequest, body: Any) -> WriteId:
        what = f"{request.verb} {'/'.join(filter(None, (request.resource, request.subresource)))}"
        if detail := _detail(request, body or {}):
            what += f" {detail}"
        self._numbers[what] += 1
        self.ids.append(found := WriteId(what, self._numbers[what]))
        return found


def _detail(request: ApiRequest, body: Mapping[str, Any]) -> str:
    if request.resource == "events":
        return str(body.get("reason", ""))
    if request.resource == "jobs":
        labels = body.get("metadata", {}).get("labels", {})
        return str(next((value for key, value in labels.items() if key.endswith("/component")), ""))
    return ""
