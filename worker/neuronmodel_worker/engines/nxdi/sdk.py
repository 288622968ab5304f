"""Which packages of the Neuron SDK are installed, from their metadata, without importing anything."""

import re
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from importlib.util import find_spec
from pathlib import Path

from neuronmodel_api.report import ServerKind
from neuronmodel_worker.engines.installed_server import installed_server
from neuronmodel_worker.engines.interface import NoEngine
from neuronmodel_worker.engines.nxdi.neuron_failures import SdkPlaceholder

# Distributions and their modules: what a compiled model depends on, and what it is loaded with.
PACKAGES: dict[str, str] = {
    "neuronx-cc": "neuronxcc",
    "torch-neuronx": "torch_neuronx",
    "neuronx-distributed": "neuronx_distributed",
    "neuronx-distributed-inference": "neuronx_distributed_inference",
}
# Part of the version if it is installed: it comes with torch-neuronx.
OTHERS: dict[str, str] = {"libneuronxla": "libneuronxla"}

VERSION_FILES = ("_version.py", "version.py", "__init__.py")
VERSION = re.compile(r"""^__version__ *= *["']([^"']+)["']""", re.MULTILINE)
UNVERSIONED = "unversioned"
"""The version of a module without metadata and without a version, such as a source tree on the path."""

IMAGE = "Set spec.worker.image to one that holds the Neuron SDK, or engine: CPU."


def versions() -> dict[str, str]:
    """The version of every package of the SDK, by its name. Raises NoEngine and SdkPlaceholder."""
    found = {name: each for name, module in (PACKAGES | OTHERS).items() if (each := _version(name, module))}
    missing = [name for name in PACKAGES if name not in found]
    if len(missing) == len(PACKAGES):
        raise NoEngine(f"This image has no Neuron engine. {_successor()}{IMAGE}")
    for name, module in PACKAGES.items():
        if (installed := _installed(name)) and _is_placeholder(installed, module):
            raise SdkPlaceholder(
                f"The package {name} {installed.version} is an empty placeholder: the public Python index has it "
                f"under that name, and AWS's own index and images have the real one. {IMAGE}"
            )
    if missing:
        raise NoEngine(
            f"This image has only a part of the Neuron SDK: {', '.join(missing)} are missing. {_successor()}{IMAGE}"
        )
    return found


def _successor() -> str:
    """Returns a sentence on the successor of NxD Inference if that is what the image has."""
    found = installed_server()
    if found is None or found.kind != ServerKind.VLLM_NEURON:
        return ""
    return f"It has {found.description}, which loads without NxD Inference and is not served by this operator yet. "


def _version(name: str, module: str) -> str | None:
    """The version of a package, from its metadata or from the module's files; None where it is not installed."""
    if installed := _installed(name):
        return installed.version
    if (found := find_spec(module)) is None:
        return None
    for folder in found.submodule_search_locations or ():
        for file in (Path(folder) / each for each in VERSION_FILES):
            if file.is_file() and (match := VERSION.search(file.read_text(errors="replace"))):
                return match[1]
    return UNVERSIONED


def _installed(name: str) -> Distribution | None:
    try:
        return distribution(name)
    except PackageNotFoundError:
        return None


def _is_placeholder(found: Distribution, module: str) -> bool:
    """Whether the module cannot be found, or the package is a 0.0.x with nothing but metadata."""
    if find_spec(module) is None:
        return True
    files = [file for file in found.files or () if not file.parts[0].endswith((".dist-info", ".egg-info"))]
    return found.version.startswith("0.0.") and not files


def cannot_be_imported(error: Exception) -> NoEngine:
    return NoEngine(
        f"The image's Neuron SDK cannot be imported ({type(error).__name__}: {error}). Use AWS's image of one release, "
        "unchanged."
    )
