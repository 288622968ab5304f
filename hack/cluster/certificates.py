"""One authority and what it signs: the API server, an administrator, the nodes; a key pair for service accounts."""

import tempfile
from pathlib import Path

from .commands import run
from .layout import API_URL, GATEWAY, KUBERNETES_SERVICE, LAYOUT, NODES

DAYS = "3650"
SERVER_NAMES = (
    "DNS:localhost",
    "DNS:kubernetes",
    "DNS:kubernetes.default",
    "DNS:kubernetes.default.svc",
    "DNS:kubernetes.default.svc.cluster.local",
    "IP:127.0.0.1",
    f"IP:{KUBERNETES_SERVICE}",
    f"IP:{GATEWAY}",
)


def ensure_certificates() -> None:
    """Make what is missing; what is there stays, so that running processes and kubeconfigs go on to work."""
    LAYOUT.certificates.mkdir(parents=True, exist_ok=True, mode=0o700)
    _ensure_authority()
    _ensure_service_account_keys()
    _ensure_signed("server", "/CN=kube-apiserver", f"subjectAltName={','.join(SERVER_NAMES)}")
    _ensure_signed("admin", "/O=system:masters/CN=admin")
    _ensure_kubeconfig(LAYOUT.kubeconfig, "admin")
    for node in NODES:
        _ensure_signed(node.name, f"/O=system:nodes/CN=system:node:{node.name}")
        _ensure_kubeconfig(path(f"{node.name}.kubeconfig"), node.name)


def path(name: str) -> Path:
    return LAYOUT.certificates / name


def _ensure_authority() -> None:
    if path("ca.crt").exists():
        return
    _new_key("ca")
    run(
        [
            *("openssl", "req", "-x509", "-new", "-key", path("ca.key"), "-days", DAYS, "-out", path("ca.crt")),
            *("-subj", "/CN=neuronmodel-cluster", "-addext", "keyUsage=critical,keyCertSign,cRLSign"),
        ]
    )


def _ensure_service_account_keys() -> None:
    if path("sa.pub").exists():
        return
    run(["openssl", "genrsa", "-out", path("sa.key"), "2048"])
    run(["openssl", "rsa", "-in", path("sa.key"), "-pubout", "-out", path("sa.pub")])


def _ensure_signed(name: str, subject: str, extension: str = "") -> None:
    if path(f"{name}.crt").exists():
        return
    _new_key(name)
    with tempfile.TemporaryDirectory() as folder:
        request, extensions = Path(folder, "request"), Path(folder, "extensions")
        extensions.write_text(f"extendedKeyUsage=serverAuth,clientAuth\n{extension}\n")
        run(["openssl", "req", "-new", "-key", path(f"{name}.key"), "-subj", subject, "-out", request])
        run(
            [
                *("openssl", "x509", "-req", "-in", request, "-days", DAYS, "-out", path(f"{name}.crt")),
                *("-CA", path("ca.crt"), "-CAkey", path("ca.key"), "-CAcreateserial", "-extfile", extensions),
            ]
        )


def _new_key(name: str) -> None:
    run(["openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", path(f"{name}.key")])


def _ensure_kubeconfig(target: Path, user: str) -> None:
    if target.exists():
        return
    target.touch(mode=0o600)
    target.write_text(
        f"""apiVersion: v1
kind: Config
current-context: neuronmodel
clusters:
- name: neuronmodel
  cluster: {{server: "{API_URL}", certificate-authority: "{path("ca.crt")}"}}
users:
- name: {user}
  user: {{client-certificate: "{path(f"{user}.crt")}", client-key: "{path(f"{user}.key")}"}}
contexts:
- name: neuronmodel
  context: {{cluster: neuronmodel, user: {user}}}
"""
    )
