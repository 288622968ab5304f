"""What a build may borrow from the machine: certificates, and how pip and apt reach their indexes here.

It is mounted for the build's duration, so neither the images nor the project hold anything of this machine.
"""

import ast
import shutil
import subprocess
from pathlib import Path

CERTIFICATES = Path("/etc/ssl/certs")
PIP_SETTINGS = ("index-url", "extra-index-url", "trusted-host", "proxy", "cert", "client-cert", "timeout")
APT_SETTINGS = ("Acquire::http", "Acquire::https", "Acquire::Check-")


def volumes(folder: Path) -> list[str]:
    """Mounts as `host:container:ro`; files that are written for it go into `folder`."""
    lent = [f"{CERTIFICATES}:{CERTIFICATES}:ro"] if CERTIFICATES.exists() else []
    for name, text, target in (
        ("pip.conf", pip_configuration(_output("python3", "-m", "pip", "config", "list")), "/etc/pip.conf"),
        ("apt.conf", apt_configuration(_output("apt-config", "dump")), "/etc/apt/apt.conf.d/99lent"),
    ):
        path = folder / name
        path.write_text(text)
        lent.append(f"{path}:{target}:ro")
    return lent


def pip_configuration(listed: str) -> str:
    """From `pip config list`, whose lines are like `global.index-url='…'` and `:env:.cert='…'`."""
    settings: dict[str, str] = {}
    for line in listed.splitlines():
        key, _, value = line.partition("=")
        name = key.rpartition(".")[2]
        if name in PIP_SETTINGS:
            settings[name] = ast.literal_eval(value)
    return "[global]\n" + "".join(f"{name} = {value}\n" for name, value in settings.items())


def apt_configuration(dumped: str) -> str:
    return "".join(f"{line}\n" for line in dumped.splitlines() if line.startswith(APT_SETTINGS))


def _output(*command: str) -> str:
    if shutil.which(command[0]) is None:
        return ""
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout
