"""Which vLLM an image has, from the metadata and the files of its packages, without importing anything.

Two packages are called `vllm-neuron`: the plugin that runs NxD Inference (0.2 to 0.5), and its successor vLLM Neuron
(0.21 and later), which loads weights without it. A vLLM without either has devices of other kinds, or none.
"""

import re
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from neuronmodel_api.config import Engine, Server, WorkerConfig
from neuronmodel_api.reasons import Reason
from neuronmodel_api.report import InstalledServer, ServerKind
from neuronmodel_worker.engines.interface import NoEngine
from neuronmodel_worker.failures import BadInput

PLUGIN: Final = "vllm-neuron"
PLUGIN_MODULE: Final = "vllm_neuron"
VERSION: Final = re.compile(r"v?(\d+)\.(\d+)")
KINDS_BY_MINOR: Final = ((range(2, 6), ServerKind.NXD_INFERENCE), (range(21, 1000), ServerKind.VLLM_NEURON))
"""Of versions 0.x."""
KINDS_BY_FILE: Final = {
    "worker/neuronx_distributed_model_loader.py": ServerKind.NXD_INFERENCE,
    "vllm/worker/neuron_worker.py": ServerKind.VLLM_NEURON,
}
"""By a file of the module that only one of them has."""
SERVES: Final = {Engine.NEURON: ServerKind.NXD_INFERENCE, Engine.CPU: ServerKind.VLLM}
"""What serves with each engine."""
UNKNOWN: Final = "unknown"


class ServerNotSupported(BadInput):
    """The image has a vLLM that is not served here, or not with this engine."""

    reason = Reason.SERVER_NOT_SUPPORTED


def installed_server() -> InstalledServer | None:
    """Returns the vLLM of this environment; None if it has none."""
    vllm = _version("vllm") or (UNKNOWN if _folder("vllm") else None)
    plugin, folder = _version(PLUGIN), _folder(PLUGIN_MODULE)
    if vllm is None:
        return None
    if plugin is None and folder is None:
        return InstalledServer(kind=ServerKind.VLLM, version=vllm)
    return InstalledServer(kind=_kind(plugin, folder), version=plugin or UNKNOWN, vllm_version=vllm)


def required_server(config: WorkerConfig) -> InstalledServer | None:
    """Returns the vLLM that serves this configuration; None if the worker does itself. Raises NoEngine if there is
    none, and ServerNotSupported if it is another one than the engine needs."""
    if config.server is not Server.VLLM:
        return None
    found = installed_server()
    if found is None:
        raise NoEngine(
            f"This image has no vLLM. Set spec.worker.image to one that has {_needed(config.engine)}, or remove "
            "spec.serving.server."
        )
    if found.kind != SERVES[config.engine]:
        raise ServerNotSupported(_refusal(found, config.engine))
    return found


def key_inputs(server: InstalledServer | None) -> dict[str, object]:
    """Returns what a compiled model's key has of the server. One that runs NxD Inference is in it already, by NxD
    Inference's own version."""
    if server is None or server.kind == ServerKind.NXD_INFERENCE:
        return {}
    return {"server": server.to_json()}


def _refusal(found: InstalledServer, engine: Engine) -> str:
    has = f"This image has {found.description}"
    if found.kind == ServerKind.VLLM_NEURON:
        return (
            f"{has}, which this version of the operator cannot load weights into yet. Set spec.worker.image to one "
            f"with {_needed(engine)}, or remove spec.serving.server if the image has NxD Inference."
        )
    if found.kind == ServerKind.UNKNOWN:
        return (
            f"{has}, of which this version of the operator does not know how it loads weights. Set spec.worker.image "
            f"to one with {_needed(engine)}."
        )
    return f"{has}, which does not serve engine: {engine}. Set spec.worker.image to one with {_needed(engine)}."


def _needed(engine: Engine) -> str:
    if engine is Engine.NEURON:
        return "vLLM and its Neuron plugin 0.2 to 0.5"
    return "a vLLM for processors, without a plugin for Neuron"


def _kind(plugin: str | None, folder: Path | None) -> ServerKind:
    if found := VERSION.match(plugin or ""):
        major, minor = map(int, found.groups())
        for minors, kind in KINDS_BY_MINOR:
            if major == 0 and minor in minors:
                return kind
    present = [kind for file, kind in KINDS_BY_FILE.items() if folder and (folder / file).is_file()]
    return present[0] if len(present) == 1 else ServerKind.UNKNOWN


def _version(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def _folder(module: str) -> Path | None:
    found = find_spec(module)
    return next((Path(each) for each in (found and found.submodule_search_locations) or ()), None)
