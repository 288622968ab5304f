"""Which vLLM an image has, and with which engine it serves."""

import pytest

from neuronmodel_api import exits
from neuronmodel_api.config import Engine, Server, WorkerConfig
from neuronmodel_api.report import InstalledServer, ServerKind
from neuronmodel_worker.engines import NoEngine
from neuronmodel_worker.engines.installed_server import (
    ServerNotSupported,
    installed_server,
    key_inputs,
    required_server,
)
from tests.unit.worker.conftest import Install

OF_NXD_INFERENCE = "vllm_neuron/worker/neuronx_distributed_model_loader.py"
OF_THE_SUCCESSOR = "vllm_neuron/vllm/worker/neuron_worker.py"


def config(engine: Engine, server: Server = Server.VLLM) -> WorkerConfig:
    return WorkerConfig(namespace="n", name="m", uid="u", spec_hash="h", engine=engine, server=server)


def test_an_image_may_have_no_vllm() -> None:
    assert installed_server() is None
    assert required_server(config(Engine.CPU, Server.OPENAI)) is None


@pytest.mark.parametrize("engine", Engine)
def test_where_vllm_is_needed_its_absence_is_named_with_what_is_needed(engine: Engine) -> None:
    needed = {Engine.NEURON: "its Neuron plugin 0.2 to 0.5", Engine.CPU: "a vLLM for processors"}[engine]
    with pytest.raises(NoEngine, match=f"This image has no vLLM. Set spec.worker.image to one that has .*{needed}"):
        required_server(config(engine))


def test_a_plugin_without_vllm_is_no_server(install: Install) -> None:
    install("vllm-neuron", "0.5.0", "vllm_neuron")
    assert installed_server() is None


@pytest.mark.parametrize(
    ("version", "kind"),
    [
        ("0.2.1", ServerKind.NXD_INFERENCE),
        ("0.3.0+neuron2.27", ServerKind.NXD_INFERENCE),
        ("0.5.0", ServerKind.NXD_INFERENCE),
        ("0.5.1.dev3+g1234567", ServerKind.NXD_INFERENCE),
        ("0.21.0.1.0.0+794754d", ServerKind.VLLM_NEURON),
        ("0.24.0.1.1.0+e8242a9", ServerKind.VLLM_NEURON),
        ("0.29.0.1.2.0", ServerKind.VLLM_NEURON),
        ("0.33.0", ServerKind.VLLM_NEURON),
        ("0.1.0", ServerKind.UNKNOWN),
        ("0.9.0", ServerKind.UNKNOWN),
        ("1.5.0", ServerKind.UNKNOWN),
        ("unversioned", ServerKind.UNKNOWN),
    ],
)
def test_the_two_plugins_of_one_name_are_told_apart_by_their_versions(
    install: Install, version: str, kind: ServerKind
) -> None:
    install("vllm", "0.16.0", "vllm")
    install("vllm-neuron", version, "vllm_neuron")
    assert installed_server() == InstalledServer(kind=kind, version=version, vllm_version="0.16.0")


@pytest.mark.parametrize(
    ("file", "kind"), [(OF_NXD_INFERENCE, ServerKind.NXD_INFERENCE), (OF_THE_SUCCESSOR, ServerKind.VLLM_NEURON)]
)
@pytest.mark.parametrize("version", ["0.0.0+unknown", "1.0.0"])
def test_a_fork_of_another_version_is_known_by_its_files(
    install: Install, file: str, kind: ServerKind, version: str
) -> None:
    install("vllm", "0.16.0", "vllm")
    install("vllm-neuron", version, "vllm_neuron", file)
    found = installed_server()
    assert found
    assert (found.kind, found.version) == (kind, version)


def test_source_trees_without_metadata_are_found(install: Install) -> None:
    install("something", "1.0", "vllm", "vllm_neuron", OF_THE_SUCCESSOR)
    assert installed_server() == InstalledServer(kind=ServerKind.VLLM_NEURON, version="unknown", vllm_version="unknown")


@pytest.mark.parametrize(
    ("engine", "vllm", "plugin", "serves"),
    [
        (Engine.NEURON, "0.16.0", "0.5.0", True),
        (Engine.NEURON, "0.24.0", "0.24.0.1.1.0", False),
        (Engine.NEURON, "0.16.0", "0.9.0", False),
        (Engine.NEURON, "0.24.0+cpu", None, False),
        (Engine.CPU, "0.24.0+cpu", None, True),
        (Engine.CPU, "0.16.0", "0.5.0", False),
        (Engine.CPU, "0.24.0", "0.24.0.1.1.0", False),
    ],
)
def test_each_engine_is_served_by_one_kind(
    install: Install, engine: Engine, vllm: str, plugin: str | None, serves: bool
) -> None:
    install("vllm", vllm, "vllm")
    if plugin:
        install("vllm-neuron", plugin, "vllm_neuron")
    if serves:
        assert required_server(config(engine)) == installed_server()
        return
    with pytest.raises(
        ServerNotSupported, match=rf"This image has .*{plugin or vllm[:6]}.*Set spec\.worker\.image to one"
    ):
        required_server(config(engine))
    assert ServerNotSupported.exit_code in exits.FINAL
    assert required_server(config(engine, Server.OPENAI)) is None


def test_keys_have_the_server_unless_it_runs_nxd_inference(install: Install) -> None:
    """Whose own version they have: keys of models that were compiled before servers were told apart stay."""
    assert key_inputs(None) == {}
    assert key_inputs(InstalledServer(kind=ServerKind.NXD_INFERENCE, version="0.5.0", vllm_version="0.16.0")) == {}
    install("vllm", "0.24.0+cpu", "vllm")
    assert key_inputs(installed_server()) == {"server": {"kind": "VLLM", "version": "0.24.0+cpu"}}
