"""NeuronModels that rest, by the thousand: what belongs to one that was started is written again under other names,
straight into the API server's database, while no controller is there to act on it.

What an object says of another one (UIDs, names, namespaces) is replaced in its text, so that the copies belong together
as the originals do; so is the hash of the pod template, which has the NeuronModel's name and UID in it.
"""

import base64
import json
import urllib.request
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from hack.cluster.layout import ETCD_URL
from neuronmodel_api import names
from neuronmodel_operator.cluster import client
from neuronmodel_operator.cluster.client import Api, Kind
from neuronmodel_operator.cluster.observe import ModelKey, look
from neuronmodel_operator.decide.rollout import rollout
from neuronmodel_operator.decide.situation import Situation
from neuronmodel_operator.settings import Settings
from neuronmodel_operator.state.annotations import RENDERED
from tests.unit.operator.simulated import component

ORIGINAL: Final = "scaleoriginal"
"""The name of what is copied; no other text has it in it."""
HOME: Final = "scalehome"
"""Its namespace."""
FOLDERS: Final = {
    client.MODEL: f"{names.GROUP}/{names.PLURAL}",
    client.SERVICE: "services/specs",
    client.DEPLOYMENT: "deployments",
    client.REPLICA_SET: "replicasets",
    client.JOB: "jobs",
    client.POD: "pods",
}
"""Where the API server keeps the objects of a kind."""
OPERATIONS: Final = 100
"""In one transaction; etcd takes 128, and 1.5 MB."""

Object = dict[str, Any]


@dataclass(frozen=True)
class Original:
    """A NeuronModel that serves, with all that belongs to it."""

    objects: Sequence[tuple[Kind, Object]]
    report: str
    """Of its worker."""

    @property
    def _uids(self) -> list[str]:
        return [o["metadata"]["uid"] for _, o in self.objects]

    @property
    def address(self) -> str:
        return str(self.serving_pod["status"]["podIP"])

    @property
    def template_hash(self) -> str:
        return str(self.serving_pod["metadata"]["annotations"][names.ANNOTATION_TEMPLATE_HASH])

    @property
    def serving_pod(self) -> Object:
        return next(o for kind, o in self.objects if kind is client.POD and component(o) == names.COMPONENT_SERVE)


@dataclass(frozen=True)
class Clone:
    namespace: str
    name: str
    address: str
    report: str
    entries: Sequence[tuple[str, str]]
    """Keys and values of the database."""


async def original(api: Api, report: str) -> Original:
    """What is there of the NeuronModel that is named ORIGINAL in the namespace HOME."""
    found: list[tuple[Kind, Object]] = []
    for kind in FOLDERS:
        found += [(kind, o) for o in await api.list(kind, HOME)]
    return Original(found, report)


async def clone(of: Original, number: int, namespace: str, address: str, service_address: str) -> Clone:
    name = f"model-{number:05}"
    replaced = {uid: str(uuid.uuid4()) for uid in of._uids} | {ORIGINAL: name, HOME: namespace, of.address: address}
    for kind, o in of.objects:
        if kind is client.SERVICE:
            replaced[o["spec"]["clusterIP"]] = service_address
    texts = [_with(json.dumps(o, separators=(",", ":")), replaced) for _, o in of.objects]
    replaced |= {of.template_hash: await _template_hash([json.loads(text) for text in texts])}
    entries = []
    for kind, o in of.objects:
        text = _with(json.dumps(_as_stored(o), separators=(",", ":")), replaced)
        key = f"/registry/{FOLDERS[kind]}/{namespace}/{_with(o['metadata']['name'], replaced)}"
        entries.append((key, text))
    return Clone(namespace, name, address, _with(of.report, replaced), entries)


@dataclass(frozen=True)
class _Objects:
    """Some objects, in place of an API server; and every claim."""

    objects: Sequence[Object]

    async def get(self, kind: Kind, namespace: str | None, name: str) -> Object | None:
        if kind is client.CLAIM:
            meta = {"name": name, "namespace": namespace, "uid": name, "creationTimestamp": "2026-01-01T00:00:00Z"}
            return {"kind": kind.kind, "metadata": meta, "spec": {"accessModes": ["ReadWriteMany"]}}
        return next((o for o in self.objects if (o["kind"], o["metadata"]["name"]) == (kind.kind, name)), None)

    async def list(
        self, kind: Kind, namespace: str | None, *, labels: str | None = None, fields: str | None = None
    ) -> tuple[Object, ...]:
        return tuple(o for o in self.objects if o["kind"] == kind.kind)


async def _template_hash(objects: Sequence[Object]) -> str:
    """Of the pod template that an operator renders for them."""
    meta = next(o["metadata"] for o in objects if o["kind"] == client.MODEL.kind)
    key = ModelKey(meta["namespace"], meta["name"], meta["uid"])
    snapshot = await look(_Objects(objects), key, datetime.now(UTC))  # type: ignore[arg-type]  # it only reads
    assert snapshot is not None
    deployment = snapshot.observed.deployment
    assert deployment is not None
    del deployment["metadata"]["annotations"][RENDERED]  # as if somebody had removed it
    wanted = rollout(Situation(snapshot.observed, datetime.now(UTC), Settings()))
    assert wanted is not None
    return wanted.template.hash


def _as_stored(o: Object) -> Object:
    """The database has the version of each of its keys itself."""
    return o | {"metadata": {key: value for key, value in o["metadata"].items() if key != "resourceVersion"}}


def _with(text: str, replaced: Mapping[str, str]) -> str:
    for former, new in replaced.items():
        text = text.replace(former, new)
    return text


def write(clones: Iterable[Clone]) -> None:
    """Writes them in transactions."""
    waiting: list[Object] = []
    size = 0
    for each in clones:
        for key, value in each.entries:
            waiting.append({"requestPut": {"key": _encoded(key), "value": _encoded(value)}})
            size += len(value)
            if len(waiting) >= OPERATIONS or size > 700_000:
                _ask("txn", {"success": waiting})
                waiting, size = [], 0
    if waiting:
        _ask("txn", {"success": waiting})


def remove(namespace: str) -> None:
    """Everything that was written for the clones of a namespace."""
    for folder in FOLDERS.values():
        prefix = f"/registry/{folder}/{namespace}/"
        end = prefix[:-1] + chr(ord(prefix[-1]) + 1)
        _ask("deleterange", {"key": _encoded(prefix), "range_end": _encoded(end)})


def _encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def _ask(what: str, body: Object) -> None:
    request = urllib.request.Request(f"{ETCD_URL}/v3/kv/{what}", json.dumps(body).encode(), method="POST")
    with urllib.request.urlopen(request, timeout=60) as answer:
        answer.read()
