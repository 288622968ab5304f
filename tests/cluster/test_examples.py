"""The examples work as they stand: the API server takes them, and nothing in them is dropped."""

from pathlib import Path

import pytest
import yaml

from neuronmodel_api.spec import NeuronModelSpec
from neuronmodel_operator import machine
from tests.builders import NeuronModelBuilder
from tests.cluster.conftest import Kubectl, Models
from tests.crd import PROJECT

EXAMPLES = sorted((PROJECT / "examples").glob("*.yaml"))


def test_there_are_examples_of_both_strategies_and_both_engines() -> None:
    specs = [NeuronModelSpec.model_validate(yaml.safe_load(path.read_text())["spec"]) for path in EXAMPLES]
    assert {spec.sharding.strategy for spec in specs} == {"ShardOnCompile", "ShardOnLoad"}
    assert {spec.engine for spec in specs} == {"CPU", "Neuron"}


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_kubectl_applies_an_example(kubectl: Kubectl, path: Path) -> None:
    kubectl("apply", "--dry-run=server", "--validate=strict", f"--filename={path}")


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_what_an_example_says_is_stored(models: Models, path: Path) -> None:
    example = yaml.safe_load(path.read_text())
    stored = models.check(NeuronModelBuilder(example))["spec"]
    assert contains(stored, example["spec"])


@pytest.mark.parametrize(
    ("name", "devices"),
    [
        ("neuron-llama-3.1-8b", 2),
        ("neuron-llama-3.1-405b-shard-on-compile", 16),
        ("neuron-llama-3.1-405b-shard-on-load", 16),
    ],
)
def test_a_neuron_example_takes_the_devices_that_it_says(name: str, devices: int) -> None:
    (path,) = (path for path in EXAMPLES if path.stem == name)
    spec = NeuronModelSpec.model_validate(yaml.safe_load(path.read_text())["spec"])
    assert machine.num_devices(spec) == devices


def contains(whole: object, part: object) -> bool:
    if isinstance(whole, dict) and isinstance(part, dict):
        return all(key in whole and contains(whole[key], value) for key, value in part.items())
    return whole == part
