"""A certificate authority of a test's own, by the openssl command."""

import ipaddress
import subprocess
from pathlib import Path
from typing import Final

DAYS: Final = "30"


class Authority:
    """Its certificate is `certificate`, which a client has to trust."""

    def __init__(self, folder: Path, name: str = "neuronmodel tests") -> None:
        self._folder = folder
        self.certificate = folder / "authority.crt"
        self._key = folder / "authority.key"
        _openssl(
            *("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", DAYS, "-subj", f"/CN={name}"),
            *("-keyout", self._key, "-out", self.certificate),
            *("-addext", "keyUsage=critical,keyCertSign,cRLSign"),
        )

    def issue(self, *hosts: str) -> tuple[Path, Path]:
        """A server's certificate for these names and addresses, and its key."""
        certificate, key = self._folder / f"{hosts[0]}.crt", self._folder / f"{hosts[0]}.key"
        request, extensions = self._folder / f"{hosts[0]}.csr", self._folder / f"{hosts[0]}.ext"
        _openssl("req", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=server", "-keyout", key, "-out", request)
        extensions.write_text(f"subjectAltName={','.join(map(_alternative_name, hosts))}\n")
        signed_by = ("-CA", self.certificate, "-CAkey", self._key, "-CAcreateserial", "-days", DAYS)
        _openssl("x509", "-req", "-in", request, *signed_by, "-extfile", extensions, "-out", certificate)
        return certificate, key


def _alternative_name(host: str) -> str:
    try:
        return f"IP:{ipaddress.ip_address(host)}"
    except ValueError:
        return f"DNS:{host}"


def _openssl(*arguments: str | Path) -> None:
    subprocess.run(("openssl", *map(str, arguments)), check=True, capture_output=True)
