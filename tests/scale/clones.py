"""NeuronModels that rest, by the thousand: everything that belongs to one that was started for real is made again under
other names, while no controller is there to act on it.

What an object says of another one (UIDs, names) is replaced in its text, so that the copies belong together as the
originals do. Hashes stay as they are: the operator compares them with each other, and never makes them anew for a spec
that has not changed.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from neuronmodel_operator.cluster import client
from neuronmodel_operator.cluster.client import Api, Kind
from tests.unit.operator.simulated import component

OF_THE_SERVER: Final = ("uid", "resourceVersion", "creationTimestamp", "managedFields", "generation", "selfLink")
MADE_UP_IN_A_JOB: Final = ("selector", "manualSelector")
CONTROLLER_UID: Final = ("controller-uid", "batch.kubernetes.io/controller-uid")

Object = dict[str, Any]


@dataclass(frozen=True)
class Original:
    """A NeuronModel that serves, with all that belongs to it: each object after those that it names."""

    namespace: str
    name: str
    objects: Sequence[tuple[Kind, Object]]


async def original(api: Api, namespace: str, name: str) -> Original:
    model = await api.get(client.MODEL, namespace, name)
    assert model is not None
    found: list[tuple[Kind, Object]] = [(client.MODEL, model)]
    for kind in (client.SERVICE, client.DEPLOYMENT, client.REPLICA_SET, client.JOB, client.POD):
        found += [(kind, o) for o in await api.list(kind, namespace)]
    return Original(namespace, name, found)


async def clone(api: Api, of: Original, namespace: str, name: str, address: str) -> Object:
    """Returns the NeuronModel. `address` is that of its serving pod."""
    replaced = {of.namespace: namespace}
    model: Object = {}
    for kind, o in of.objects:
        status = o.get("status")
        if kind is client.POD and status:
            status = _at(status, address)
        manifest = _renamed(_as_made(kind, o), of.name, name)
        made = await api.create(kind, namespace, _with(manifest, replaced))
        replaced[o["metadata"]["uid"]] = made["metadata"]["uid"]
        replaced[o["metadata"]["name"]] = made["metadata"]["name"]
        if status and kind is not client.SERVICE:
            patch = _renamed({"status": status}, of.name, name)
            written = await api.merge(kind, namespace, made["metadata"]["name"], _with(patch, replaced), "status")
            model = written if kind is client.MODEL else model
    return model


def _as_made(kind: Kind, o: Object) -> Object:
    """As it was asked for, without what the API server added."""
    meta = {key: value for key, value in o["metadata"].items() if key not in OF_THE_SERVER}
    spec = dict(o["spec"])
    if kind is client.SERVICE:
        spec = {key: value for key, value in spec.items() if not key.startswith(("clusterIP", "ipFamil"))}
    if kind is client.JOB:
        spec = {key: value for key, value in spec.items() if key not in MADE_UP_IN_A_JOB}
        template = spec["template"]["metadata"]
        labels = {key: value for key, value in template["labels"].items() if key not in CONTROLLER_UID}
        spec["template"] = spec["template"] | {"metadata": template | {"labels": labels}}
    return {"apiVersion": kind.api_version, "kind": kind.kind, "metadata": meta, "spec": spec}


def _renamed(o: Object, former: str, name: str) -> Object:
    """The NeuronModel's name begins the names of all that belongs to it."""
    renamed: Object = json.loads(json.dumps(o).replace(f'"{former}', f'"{name}').replace(f"/{former}", f"/{name}"))
    return renamed


def _with(o: Object, replaced: Mapping[str, str]) -> Object:
    text = json.dumps(o)
    for former, new in sorted(replaced.items(), key=lambda pair: -len(pair[0])):
        text = text.replace(former, new)
    found: Object = json.loads(text)
    return found


def _at(status: Object, address: str) -> Object:
    return status | ({"podIP": address, "podIPs": [{"ip": address}]} if "podIP" in status else {})


def is_serving_pod(o: Object) -> bool:
    return component(o) == "serve"
