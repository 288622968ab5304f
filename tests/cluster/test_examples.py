"""The examples and the guide's manifests work as they stand: the API server takes them, and nothing is dropped."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from hack.demo import manifests as demo
from neuronmodel_api.config import Server
from neuronmodel_api.spec import NeuronModelSpec
from neuronmodel_operator.manifests import instance_type, neuron_config
from neuronmodel_worker.engines.nxdi.flag_checks import check_flags
from neuronmodel_worker.engines.nxdi.vllm_checks import check_graph
from neuronmodel_worker.neuron_config.fields import check_fields
from tests.builders import NeuronModelBuilder
from tests.cluster.conftest import Kubectl, Models
from tests.paths import PROJECT

EXAMPLES = sorted((PROJECT / "examples").glob("*.yaml"))


def neuronmodel(path: Path) -> dict[str, Any]:
    """Returns the NeuronModel of the file, which may also hold what it uses."""
    (found,) = (each for each in yaml.safe_load_all(path.read_text()) if each["kind"] == "NeuronModel")
    return dict(found)


def spec(path: Path) -> NeuronModelSpec:
    return NeuronModelSpec.model_validate(neuronmodel(path)["spec"])


def test_there_are_examples_of_every_strategy_and_both_engines_and_servers() -> None:
    specs = [spec(path) for path in EXAMPLES]
    assert {each.sharding.strategy for each in specs} == {"ShardOnCompile", "ShardOnLoad", "Auto"}
    assert {each.engine for each in specs} == {"CPU", "Neuron"}
    assert {each.serving.server for each in specs} == {None, "VLLM"}
    sources = [each.model.source for each in specs]
    assert any(each.hugging_face for each in sources)
    assert any(each.s3 for each in sources)
    assert any(each.persistent_volume_claim for each in sources)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_kubectl_applies_an_example(kubectl: Kubectl, path: Path) -> None:
    kubectl("apply", "--dry-run=server", "--validate=strict", f"--filename={path}")


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_what_an_example_says_is_stored(models: Models, path: Path) -> None:
    example = neuronmodel(path)
    stored = models.check(NeuronModelBuilder(example))["spec"]
    assert contains(stored, example["spec"])


@pytest.mark.parametrize(
    ("name", "devices"),
    [
        ("neuron-llama-3.1-405b-shard-on-compile", 16),
        ("neuron-llama-3.1-405b-shard-on-load", 16),
        ("neuron-llama-3.1-405b-from-claim", 16),
        ("neuron-llama-3.1-8b-s3", 1),
        ("neuron-llama-3.1-8b-trn2.3xlarge", 1),
        ("neuron-llama-3.3-70b-vllm-dra", 8),
    ],
)
def test_an_example_takes_the_devices_that_it_says(name: str, devices: int) -> None:
    assert instance_type.num_devices(spec(PROJECT / "examples" / f"{name}.yaml")) == devices


@pytest.mark.parametrize(
    "path", [each for each in EXAMPLES if each.stem.startswith("neuron-")], ids=lambda path: path.stem
)
def test_the_neuron_engine_takes_the_fields_of_an_example(path: Path) -> None:
    example = spec(path)
    fields = neuron_config.neuron_config(example)
    check_fields(fields, example.model.type or "llama")
    check_flags(fields, example.serving.server or Server.OPENAI, example.model.type or "llama")
    if example.serving.server is Server.VLLM:
        check_graph(fields)


GUIDE = (PROJECT / "docs" / "neuron.md").read_text()
# What kubectl is given there; the other here-document is eksctl's.
MANIFESTS = re.findall(r"kubectl apply -f - <<'END'\n(.*?)^END$", GUIDE, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("manifests", MANIFESTS, ids=["storage class", "claim and download"])
def test_the_manifests_of_the_guide_are_accepted(kubectl: Kubectl, manifests: str) -> None:
    kubectl("apply", "--dry-run=server", "--validate=strict", "--filename=-", stdin=manifests)


def test_the_guide_makes_what_the_examples_of_405b_name() -> None:
    made = [each for manifests in MANIFESTS for each in yaml.safe_load_all(manifests)]
    assert {each["metadata"]["name"] for each in made if each["kind"] == "StorageClass"} == {"fast"}
    assert {each["metadata"]["name"] for each in made if each["kind"] == "PersistentVolumeClaim"} == {"models"}
    named = [spec(path) for path in EXAMPLES if "405b" in path.stem]
    assert {each.artifacts.template and each.artifacts.template.storage_class_name for each in named} == {"fast"}
    tokens = [each.model.source.hugging_face.token_secret_ref for each in named if each.model.source.hugging_face]
    assert len(tokens) == 2
    for token in tokens:
        assert token is not None
        assert f"kubectl create secret generic {token.name} --from-literal={token.key}=" in GUIDE


README = re.findall(r"^```yaml\n(.*?)^```$", (PROJECT / "README.md").read_text(), re.MULTILINE | re.DOTALL)


def test_the_first_neuronmodel_of_the_readme_is_accepted(kubectl: Kubectl) -> None:
    (manifest,) = README
    kubectl("apply", "--dry-run=server", "--validate=strict", "--filename=-", stdin=manifest)


def test_the_first_neuronmodel_of_the_readme_is_the_first_example() -> None:
    example = neuronmodel(PROJECT / "examples" / "cpu-smollm2-hugging-face.yaml")
    del example["spec"]["artifacts"]["retention"]
    assert yaml.safe_load(README[0]) == example


def test_the_readme_s_other_example_finds_its_checkpoint_on_the_cluster_of_the_demo() -> None:
    example = neuronmodel(PROJECT / "examples" / "cpu-smollm2-shard-on-compile.yaml")
    source = demo.neuron_model("smollm2", "ShardOnCompile")["spec"]["model"]["source"]
    assert example["spec"]["model"]["source"] == source
    assert source["persistentVolumeClaim"]["claimName"] == demo.models_claim()["metadata"]["name"]
    assert (
        f"kubectl apply -n {demo.NAMESPACE} -f examples/cpu-smollm2-shard-on-compile.yaml"
        in (PROJECT / "README.md").read_text()
    )


def contains(whole: object, part: object) -> bool:
    if isinstance(whole, dict) and isinstance(part, dict):
        return all(key in whole and contains(whole[key], value) for key, value in part.items())
    return whole == part
