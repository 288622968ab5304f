"""The tests' own Hub as pods reach it: under names of the cluster, by TLS, with tokens in Secrets."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from hack.cluster.layout import GATEWAY
from tests.authority import Authority
from tests.ports import free_port
from tests.standins.hub import Hub

from .cluster import Object
from .network_source import HTTPS_PORT, of_namespace, service, trusted
from .neuronmodels import neuron_model
from .room import Room

NAMESPACE: Final = "e2e-hub"
HOST: Final = f"hub.{NAMESPACE}.svc"
CDN_HOST: Final = f"cdn.{NAMESPACE}.svc"
ENDPOINT: Final = f"https://{HOST}"
"""The operator is installed with it, before there is a Hub."""
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
        *service(HOST, ports[0]),
        *service(CDN_HOST, ports[1]),
        trusted(NAMESPACE, AUTHORITY, authority),
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
    room.cluster.apply(of_namespace(NAMESPACE, "Secret", secret, stringData={TOKEN_KEY: token}))


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
