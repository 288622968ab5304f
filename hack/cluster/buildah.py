"""buildah, with a store of its own below the cluster's folder, and the base image that the Dockerfiles start from."""

import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from . import lending
from .commands import run, succeeds
from .layout import LAYOUT, PROJECT
from .progress import step

BASE = "docker.io/library/debian:trixie-slim"


def ensure_base() -> None:
    """Debian's minimal system, made by debootstrap once: nothing is pulled from a registry of images."""
    if holds(BASE):
        return
    with step("making the base image debian:trixie-slim (about a minute)"), _temporary() as folder:
        root = Path(folder, "root")
        command = ["debootstrap", "--variant=minbase", "--include=ca-certificates", "trixie", str(root)]
        run(command, log=LAYOUT.logs / "debootstrap.log")
        for left in ("var/lib/apt/lists", "var/cache/apt", "var/log", "usr/share/doc", "usr/share/man"):
            _empty(root / left)
        archive = Path(folder, "root.tar")
        run(["tar", "--create", "--numeric-owner", "--directory", root, "--file", archive, "."])
        _commit(archive)


def holds(reference: str) -> bool:
    return succeeds([*_command("inspect"), "--type=image", reference])


def build(dockerfile: Path, reference: str, log: Path, arguments: Mapping[str, str]) -> None:
    """An ordinary build; lent to it: the machine's certificates and how it reaches package indexes."""
    with _temporary() as folder:
        volumes = [f"--volume={volume}" for volume in lending.volumes(Path(folder))]
        options = ["--pull=never", "--layers", "--isolation=chroot", f"--file={dockerfile}", f"--tag={reference}"]
        options += [f"--build-arg={name}={value}" for name, value in arguments.items()]
        run([*_command("bud"), *options, *volumes, PROJECT], log=log)


def build_of_program(program: Path, reference: str, *, user: int) -> None:
    """An image of one static program, which is what it runs."""
    container = run([*_command("from"), "scratch"]).strip()
    try:
        target = f"/bin/{program.name}"
        run([*_command("add"), "--quiet", container, program, target])
        run([*_command("config"), f'--entrypoint=["{target}"]', f"--user={user}", container])
        run([*_command("commit"), "--quiet", container, reference])
    finally:
        run([*_command("rm"), container])


def push(reference: str) -> None:
    """Compressed lightly: it goes to the same disk."""
    options = ["--tls-verify=false", "--quiet", "--compression-format=zstd", "--compression-level=1"]
    run([*_command("push"), *options, reference, f"docker://{reference}"])


def last_step(log: Path) -> str:
    """The Dockerfile's instruction under way."""
    lines = log.read_text(errors="replace").splitlines() if log.exists() else []
    steps = [line for line in lines if "STEP" in line]
    return steps[-1][:100] if steps else ""


def _command(subcommand: str) -> list[str]:
    places = [f"--root={LAYOUT.image_storage}", f"--runroot={LAYOUT.run / 'buildah'}", "--storage-driver=overlay"]
    return ["buildah", *places, subcommand]


def _commit(archive: Path) -> None:
    container = run([*_command("from"), "scratch"]).strip()
    try:
        run([*_command("add"), "--quiet", container, archive, "/"])
        run([*_command("config"), "--cmd", "bash", container])
        run([*_command("commit"), "--quiet", container, BASE])
    finally:
        run([*_command("rm"), container])


def _empty(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()


def _temporary() -> tempfile.TemporaryDirectory[str]:
    LAYOUT.image_storage.mkdir(parents=True, exist_ok=True)
    return tempfile.TemporaryDirectory(dir=LAYOUT.image_storage)
