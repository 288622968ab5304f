"""The tests' own S3 as pods reach it: under names of the cluster, by TLS, with keys in Secrets or as who the pod is."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from hack.cluster.layout import GATEWAY
from tests.authority import Authority
from tests.ports import free_port
from tests.standins.s3 import S3, Key

from .cluster import API_VERSIONS, Cluster, Object
from .network_source import of_namespace, service, trusted
from .neuronmodels import merged, neuron_model
from .room import Room

NAMESPACE: Final = "e2e-s3"
HOST: Final = f"s3.{NAMESPACE}.svc"
STS_HOST: Final = f"sts.{NAMESPACE}.svc"
POD_IDENTITY_HOST: Final = f"pod-identity.{NAMESPACE}.svc"
ENDPOINT: Final = f"https://{HOST}"
"""The operator is installed with it, before there is an S3."""
HTTP_PORT: Final = 80
AUTHORITY: Final = {"name": "s3-authority", "key": "ca.crt"}
ACCESS_KEY_ID, SECRET_ACCESS_KEY = "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"
SESSION_TOKEN: Final = "session"
"""The key of a Secret with a temporary key: no key is looked for by itself."""
ROLE: Final = "arn:aws:iam::123456789012:role/reader"
READER: Final = "reader"
"""The service account of pods that have the role."""
TOKENS_OF = {"sts": "sts.amazonaws.com", "pod-identity": "pods.eks.amazonaws.com"}
"""The audience of tokens for each."""
TOKEN_FOLDER: Final = "/var/run/secrets/eks.amazonaws.com/serviceaccount"
TOKEN_FILE: Final = f"{TOKEN_FOLDER}/token"
TOKEN_SECONDS: Final = 3600


@dataclass
class ClusterTokens:
    """Asks the cluster about tokens of service accounts, as AWS does."""

    cluster: Cluster
    audience: str
    accepted: set[str] = field(default_factory=set)

    def accept(self, token: str) -> bool:
        """Whether it is of the reader, and for this audience."""
        asked = {"token": token, "audiences": [self.audience]}
        review = {"apiVersion": API_VERSIONS["TokenReview"], "kind": "TokenReview", "spec": asked}
        told = self.cluster.kubectl("create", "--filename=-", "--output=json", stdin=json.dumps(review))
        status = json.loads(told)["status"]
        user = status.get("user", {}).get("username")
        if status.get("authenticated") and user == f"system:serviceaccount:{NAMESPACE}:{READER}":
            self.accepted.add(token)
        return token in self.accepted


@dataclass(frozen=True)
class Served:
    """S3, and the tokens of pods that were shown to those who give keys for it."""

    s3: S3
    tokens: tuple[ClusterTokens, ...]

    def secrets(self) -> set[str]:
        """All that nobody may see: lasting and temporary keys, and tokens of pods."""
        secrets = {secret for key in self.s3.access for secret in (key.secret, key.token) if secret}
        return secrets.union(*(tokens.accepted for tokens in self.tokens))


@contextmanager
def s3_for(room: Room, folder: Path) -> Iterator[Served]:
    """It runs in this process. Pods reach it through Services without a selector, and trust it by a ConfigMap."""
    assert room.namespace == NAMESPACE, "the names in its certificate are of this namespace"
    authority = Authority(folder)
    certificate, key = authority.issue(HOST, STS_HOST)
    ports = free_port(), free_port(), free_port()
    room.cluster.apply(
        *service(HOST, ports[0]),
        *service(STS_HOST, ports[1]),
        *service(POD_IDENTITY_HOST, ports[2], service_port=HTTP_PORT),
        of_namespace(NAMESPACE, "ServiceAccount", READER),
        trusted(NAMESPACE, AUTHORITY, authority),
    )
    s3 = S3(
        listen=GATEWAY,
        port=ports[0],
        sts_port=ports[1],
        pod_identity_port=ports[2],
        advertise=ENDPOINT,
        certificate=certificate,
        key=key,
    )
    s3.sts.roles.add(ROLE)
    s3.pod_identity.role = ROLE
    tokens = []
    for issuer in (s3.sts, s3.pod_identity):
        tokens.append(ClusterTokens(room.cluster, TOKENS_OF[issuer.name]))
        issuer.tokens.accepts = tokens[-1].accept
    with s3:
        yield Served(s3, tuple(tokens))


def give_key(room: Room, secret: str, key: Key) -> None:
    """Make the Secret, or replace what it holds: under the names that are looked for by default, but for a token."""
    held = {ACCESS_KEY_ID: key.id, SECRET_ACCESS_KEY: key.secret, **({SESSION_TOKEN: key.token} if key.token else {})}
    room.cluster.apply(of_namespace(NAMESPACE, "Secret", secret, stringData=held))


def from_bucket(
    name: str,
    uri: str,
    *,
    secret: str | None = None,
    has_token: bool = False,
    endpoint: str = ENDPOINT,
    trusts: bool = True,
    source: Object | None = None,
    **options: Any,
) -> Object:
    """A NeuronModel whose weights are in a bucket. `source` has further fields of it, `options` are those of
    `neuron_model`."""
    keys: Object = {"name": secret, **({"sessionTokenKey": SESSION_TOKEN} if has_token else {})}
    made: Object = {
        "uri": uri,
        "endpoint": endpoint,
        **({"caBundle": {"configMapKeyRef": AUTHORITY}} if trusts else {}),
        **({"credentialsSecretRef": keys} if secret else {}),
        **(source or {}),
    }
    manifest = neuron_model(name, "", **options)
    manifest["spec"]["model"] = {"source": {"s3": made}}
    return manifest


def as_pod_identity(**spec: Any) -> Object:
    """What EKS adds to a pod of a service account that is associated with a role, as options of `from_bucket`."""
    return _identity(
        spec,
        TOKENS_OF["pod-identity"],
        AWS_CONTAINER_CREDENTIALS_FULL_URI=f"http://{POD_IDENTITY_HOST}/v1/credentials",
        AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE=TOKEN_FILE,
    )


def as_role(**spec: Any) -> Object:
    """What EKS adds to a pod whose service account has a role in an annotation, as options of `from_bucket`."""
    return _identity(
        spec,
        TOKENS_OF["sts"],
        AWS_ROLE_ARN=ROLE,
        AWS_WEB_IDENTITY_TOKEN_FILE=TOKEN_FILE,
        AWS_ENDPOINT_URL_STS=f"https://{STS_HOST}",
    )


def _identity(spec: Object, audience: str, **variables: str) -> Object:
    token = {"audience": audience, "expirationSeconds": TOKEN_SECONDS, "path": TOKEN_FILE.rpartition("/")[2]}
    worker = {
        "serviceAccountName": READER,
        "env": [{"name": name, "value": value} for name, value in variables.items()],
        "volumes": [{"name": "identity", "projected": {"sources": [{"serviceAccountToken": token}]}}],
        "volumeMounts": [{"name": "identity", "mountPath": TOKEN_FOLDER, "readOnly": True}],
    }
    return merged(spec, {"worker": worker})
