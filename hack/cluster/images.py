"""Builds the images from the Dockerfiles that everybody uses and pushes them to the cluster's registry.

A tag is a hash of what the image is made of: the same code has the same tag, and is built once.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from . import buildah, registry
from .layout import LAYOUT, PROJECT, REGISTRY
from .progress import say, step

DOCKERFILES = {"operator": PROJECT / "operator/Dockerfile", "worker": PROJECT / "worker/Dockerfile"}


def build(names: Sequence[str]) -> dict[str, str]:
    """References of these images (of all without a name), built and pushed where the registry lacks them."""
    references = {name: _ensure(name) for name in names or DOCKERFILES}
    known = json.loads(LAYOUT.images.read_text()) if LAYOUT.images.exists() else {}
    LAYOUT.images.write_text(json.dumps({**known, **references}, indent=2))
    for name, reference in references.items():
        say(f"{name}: {reference}")
    return references


def tag(dockerfile: Path) -> str:
    """Of the Dockerfile and every file that it copies from the project."""
    digest = hashlib.sha256()
    for path in sorted(_ingredients(dockerfile)):
        digest.update(f"{path.relative_to(PROJECT)}\0".encode())
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:12]


def _ensure(name: str) -> str:
    dockerfile = DOCKERFILES[name]
    repository, version = f"neuronmodel/{name}", tag(dockerfile)
    reference = f"{REGISTRY}/{repository}:{version}"
    if not registry.holds(repository, version):
        log = LAYOUT.logs / f"image-{name}.log"
        buildah.ensure_base()
        with step(f"building the {name} image", detail=lambda: buildah.last_step(log)):
            buildah.build(dockerfile, reference, log)
        with step(f"pushing {reference}"):
            buildah.push(reference)
    return reference


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
        if child.is_file() and "__pycache__" not in child.parts:
            yield child
