"""Builds the images from the Dockerfiles that everybody uses and pushes them to the cluster's registry.

A tag is a hash of what the image is made of: the same code has the same tag, and is built once.

The worker's image for Neuron is built on AWS's; here it stands on a base of the tests' stand-ins for the Neuron SDK.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from . import buildah, registry
from .layout import LAYOUT, PROJECT, REGISTRY
from .progress import say, step

DOCKERFILES = {
    "operator": PROJECT / "operator/Dockerfile",
    "worker": PROJECT / "worker/Dockerfile",
    "worker-neuron": PROJECT / "worker/Dockerfile.neuron",
}
DEFAULT = ("operator", "worker")
"""What is built where no image is named."""
STAND_INS = PROJECT / "tests/standins/Dockerfile"
"""The base of the worker's image for Neuron, in place of AWS's."""


def build(names: Sequence[str]) -> dict[str, str]:
    """References of these images, built and pushed where the registry lacks them."""
    references = {name: _ensure(name) for name in names or DEFAULT}
    known = json.loads(LAYOUT.images.read_text()) if LAYOUT.images.exists() else {}
    LAYOUT.images.write_text(json.dumps({**known, **references}, indent=2))
    for name, reference in references.items():
        say(f"{name}: {reference}")
    return references


def tag(*dockerfiles: Path) -> str:
    """Of Dockerfiles that stand on each other, and every file that they copy from the project."""
    digest = hashlib.sha256()
    for path in sorted({path for dockerfile in dockerfiles for path in _ingredients(dockerfile)}):
        digest.update(f"{path.relative_to(PROJECT)}\0".encode())
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:12]


def _ensure(name: str) -> str:
    dockerfile = DOCKERFILES[name]
    stands_on = [STAND_INS] if name == "worker-neuron" else []
    repository, version = f"neuronmodel/{name}", tag(dockerfile, *stands_on)
    reference = f"{REGISTRY}/{repository}:{version}"
    if not registry.holds(repository, version):
        buildah.ensure_base()
        arguments = {"NEURON_IMAGE": _stand_ins()} if stands_on else {}
        _build(name, dockerfile, reference, arguments)
        with step(f"pushing {reference}"):
            buildah.push(reference)
    return reference


def _stand_ins() -> str:
    """Never pushed: only a build takes it."""
    reference = f"localhost/neuronmodel/stand-ins:{tag(STAND_INS)}"
    if not buildah.holds(reference):
        _build("stand-ins", STAND_INS, reference, {})
    return reference


def _build(name: str, dockerfile: Path, reference: str, arguments: Mapping[str, str]) -> None:
    log = LAYOUT.logs / f"image-{name}.log"
    with step(f"building the {name} image", detail=lambda: buildah.last_step(log)):
        buildah.build(dockerfile, reference, log, arguments)


def _ingredients(dockerfile: Path) -> Iterator[Path]:
    yield dockerfile
    for line in dockerfile.read_text().splitlines():
        words = line.split()
        if words[:1] == ["COPY"] and not words[1].startswith("--from"):
            for source in words[1:-1]:
                yield from _files(PROJECT / source)


def _files(path: Path) -> Iterator[Path]:
    if path.is_file():
        yield path
    for child in path.rglob("*") if path.is_dir() else ():
        if child.is_file() and "__pycache__" not in child.parts and child.suffix != ".so":
            yield child
