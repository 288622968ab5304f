"""What has to be installed on the machine: Debian's packages are installed where they are missing, or named."""

import os
import shutil
from pathlib import Path

from .commands import run
from .containers import PLUGIN_FOLDERS
from .failures import CannotRunHereError
from .layout import LAYOUT
from .progress import step

# Program → Debian's package that brings it.
PROGRAMS = {
    "containerd": "containerd",
    "ctr": "containerd",
    "runc": "runc",
    "bridge": "containernetworking-plugins",
    "ip": "iproute2",
    "iptables": "iptables",
    "conntrack": "conntrack",
    "openssl": "openssl",
    "mount": "mount",
    "buildah": "buildah",
    "debootstrap": "debootstrap",
}


def ensure_packages() -> None:
    """Raises CannotRunHereError where the cluster cannot run: not Linux, not root, or no apt to fill the gaps."""
    _require_root()
    missing = missing_packages()
    if not missing:
        return
    if shutil.which("apt-get") is None:
        raise CannotRunHereError(
            f"missing on this machine, and there is no apt-get to install it: {', '.join(missing)}."
        )
    with step(f"installing {', '.join(missing)}"):
        quiet = {"DEBIAN_FRONTEND": "noninteractive"}
        run(["apt-get", "update", "-q"], env=quiet, log=LAYOUT.logs / "apt-update.log")
        command = ["apt-get", "install", "-q", "-y", "--no-install-recommends", *missing]
        run(command, env=quiet, log=LAYOUT.logs / "apt-install.log")


def missing_packages() -> list[str]:
    return sorted({package for program, package in PROGRAMS.items() if not _is_there(program)})


def _is_there(program: str) -> bool:
    if program == "bridge":  # the CNI plugin, not iproute2's program of that name
        return shutil.which(program, path=os.pathsep.join(map(str, PLUGIN_FOLDERS))) is not None
    return shutil.which(program) is not None


def _require_root() -> None:
    if not Path("/proc/self/mountinfo").exists():
        raise CannotRunHereError("a cluster needs Linux: containers share the kernel of the machine they run on.")
    if os.geteuid() != 0:
        raise CannotRunHereError("a cluster on this machine needs root (bridges, mounts, cgroups): run it with sudo.")
