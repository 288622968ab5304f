"""The tests' own Hub as pods reach it: under names of the cluster, by TLS, with tokens in Secrets."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from hack.cluster.layout import GATEWAY
from tests.authority import Authority
from tests.ports import free_port
from tests.standins.hub import Hub

from .cluster import API_VERSIONS, Object
from .neuronmodels import neuron_model
from .room import Room

NAMESPACE: Final = "e2e-hub"
HOST: Final = f"hub.{NAMESPACE}.svc"
CDN_HOST: Final = f"cdn.{NAMESPACE}.svc"
ENDPOINT: Final = f"https://{HOST}"
"""The operator is installed with it, before there is a Hub."""
HTTPS_PORT: Final = 443
AUTHORITY: Final = {"name": "hub-authority", "key": "ca.crt"}
TOKEN_KEY: Final = "token"


@contextmanager
def hub_for(room: Room, folder: Path) -> Iterator[Hub]:
    """It runs in this process. Pods reach it through Services without a selector, and trust it by a ConfigMap."""
    assert room.namespace == NAMESPACE, "the names in its certificate are of this namespace"
    authority = Authority(folder)
    certificate, key = authority.issue(HOST, CDN_HOST)
    ports = free_port(), free_port()
    room.cluster.apply(
        *_service(HOST, ports[0]),
        *_service(CDN_HOST, ports[1]),
        _object("ConfigMap", AUTHORITY["name"], data={AUTHORITY["key"]: authority.certificate.read_text()}),
    )
    with Hub(
        listen=GATEWAY,
        port=ports[0],
        cdn_port=ports[1],
        advertise=f"{ENDPOINT}:{HTTPS_PORT}",
        advertise_cdn=f"https://{CDN_HOST}:{HTTPS_PORT}",
        certificate=certificate,
        key=key,
    ) as hub:
        yield hub


def give_token(room: Room, secret: str, token: str) -> None:
    """Make the Secret, or replace what it holds."""
    room.cluster.apply(_object("Secret", secret, stringData={TOKEN_KEY: token}))


def from_hub(
    name: str,
    repository: str,
    *,
    secret: str | None = None,
    endpoint: str = ENDPOINT,
    trusts: bool = True,
    **options: Any,
) -> Object:
    """A NeuronModel whose weights are in a repository; `options` are those of `neuron_model`."""
    source: Object = {
        "repository": repository,
        "endpoint": endpoint,
        **({"caBundle": {"configMapKeyRef": AUTHORITY}} if trusts else {}),
        **({"tokenSecretRef": {"name": secret, "key": TOKEN_KEY}} if secret else {}),
    }
    manifest = neuron_model(name, "", **options)
    manifest["spec"]["model"] = {"source": {"huggingFace": source}}
    return manifest


def tensor_range(file: Path, name: str) -> tuple[int, int]:
    """The first byte of a tensor in a safetensors file, and the byte behind its last one."""
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        first, end = json.loads(opened.read(length))[name]["data_offsets"]
    return 8 + length + first, 8 + length + end


def _service(host: str, port: int) -> list[Object]:
    """A name of the cluster, at the usual port of https, for a port of this machine."""
    name = host.partition(".")[0]
    endpoints = _object(
        "EndpointSlice",
        name,
        addressType="IPv4",
        ports=[{"port": port}],
        endpoints=[{"addresses": [GATEWAY]}],
    )
    endpoints["metadata"]["labels"] = {"kubernetes.io/service-name": name}
    return [_object("Service", name, spec={"ports": [{"port": HTTPS_PORT, "targetPort": port}]}), endpoints]


def _object(kind: str, name: str, **content: Any) -> Object:
    about = {"name": name, "namespace": NAMESPACE}
    return {"apiVersion": API_VERSIONS[kind], "kind": kind, "metadata": about, **content}
