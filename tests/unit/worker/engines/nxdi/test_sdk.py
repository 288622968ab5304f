"""What is installed of the Neuron SDK: nothing, a part, the real one, or the placeholders of the public index."""

import sys
from importlib import metadata
from pathlib import Path

import pytest

from neuronmodel_api import exits
from neuronmodel_api.config import Engine, WorkerConfig
from neuronmodel_worker.engines import NoEngine, open_engine
from neuronmodel_worker.engines.nxdi import sdk
from neuronmodel_worker.engines.nxdi.neuron_failures import SdkPlaceholder
from tests.unit.standins.conftest import Importer
from tests.unit.worker.conftest import Install


@pytest.fixture
def _all_but_one(install: Install) -> None:
    for name, module in list(sdk.PACKAGES.items())[1:]:
        install(name, "1.2.3", module)


def test_versions_come_from_metadata_and_nothing_is_imported(neuron: Importer) -> None:
    for name in [name for name in sys.modules if name.startswith("neuronx_distributed_inference")]:
        del sys.modules[name]
    found = sdk.versions()
    assert found.keys() == {*sdk.PACKAGES, "libneuronxla"}
    assert found["neuronx-distributed-inference"] == metadata.version("neuronx-distributed-inference")
    assert not [name for name in sys.modules if name.startswith("neuronx_distributed_inference")]


def test_nothing_installed_is_no_engine() -> None:
    config = WorkerConfig(namespace="n", name="m", uid="u", spec_hash="h", engine=Engine.NEURON)
    with pytest.raises(NoEngine, match="This image has no Neuron engine") as failure:
        open_engine(config)
    assert failure.value.exit_code == exits.NO_ENGINE


@pytest.mark.usefixtures("_all_but_one")
def test_a_part_is_no_engine(install: Install) -> None:
    with pytest.raises(NoEngine, match="only a part of the Neuron SDK: neuronx-cc are missing"):
        sdk.versions()


@pytest.mark.usefixtures("_all_but_one")
def test_a_placeholder_without_its_module_is_explained(install: Install) -> None:
    install("neuronx-cc", "1.0.post1")
    with pytest.raises(SdkPlaceholder, match=r"neuronx-cc 1\.0\.post1 is an empty placeholder"):
        sdk.versions()


@pytest.mark.usefixtures("_all_but_one")
def test_a_version_of_naught_without_files_is_a_placeholder_too(
    install: Install, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install("neuronx-cc", "0.0.1")
    other = tmp_path / "elsewhere"
    (other / "neuronxcc").mkdir(parents=True)
    (other / "neuronxcc" / "__init__.py").touch()
    monkeypatch.delitem(sys.modules, "neuronxcc", raising=False)
    monkeypatch.syspath_prepend(str(other))
    with pytest.raises(SdkPlaceholder, match=r"neuronx-cc 0\.0\.1"):
        sdk.versions()


@pytest.mark.usefixtures("_all_but_one")
def test_a_whole_sdk_is_taken(install: Install) -> None:
    install("neuronx-cc", "2.26.0", "neuronxcc")
    assert sdk.versions() == {"neuronx-cc": "2.26.0", **dict.fromkeys(list(sdk.PACKAGES)[1:], "1.2.3")}


@pytest.mark.usefixtures("_all_but_one")
@pytest.mark.parametrize(
    ("file", "text", "version"),
    [("_version.py", '# of the source\n__version__ = "2.25.1+abc"\n', "2.25.1+abc"), ("other.py", "", "unversioned")],
)
def test_a_module_without_metadata_is_of_the_version_that_it_tells(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str, text: str, version: str
) -> None:
    """A source tree on the path; it need not have an __init__.py."""
    monkeypatch.delitem(sys.modules, "neuronxcc", raising=False)
    (tmp_path / "neuronxcc").mkdir()
    (tmp_path / "neuronxcc" / file).write_text(text)
    assert sdk.versions()["neuronx-cc"] == version


def test_an_image_with_the_successor_of_nxd_inference_is_told_of_it(install: Install) -> None:
    install("neuronx-cc", "2.27.5334.0", "neuronxcc")
    install("vllm", "0.24.0", "vllm")
    install("vllm-neuron", "0.24.0.1.1.0", "vllm_neuron")
    with pytest.raises(NoEngine, match=r"missing\. It has vLLM Neuron 0\.24\.0\.1\.1\.0 with vLLM 0\.24\.0, which"):
        sdk.versions()
