"""Names and numbers that the definition repeats, because a rule or a description needs them, are those of the code."""

import ast
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from hack.schema.__main__ import reference_pages
from neuronmodel_api import names
from neuronmodel_api.spec import Compile, NeuronModelSpec
from neuronmodel_operator.manifests import instance_type, neuron_config, pod
from neuronmodel_worker.layouts.flag_support import CHOICES, SWITCHES
from neuronmodel_worker.neuron_config.values import DEFAULT_SEQUENCE_LENGTH
from tests import crd
from tests.builders import neuron_model
from tests.contract_words import modules
from tests.paths import API, OPERATOR, WORKER

CRD = crd.definition()
NODES = dict(crd.walk(crd.schema_of(CRD)))


def rules(path: str) -> list[dict[str, str]]:
    found: list[dict[str, str]] = NODES[path]["x-kubernetes-validations"]
    return found


def words(rule: str) -> set[str]:
    """The quoted strings of a rule."""
    return set(re.findall(r"'([^']*)'", rule))


def test_the_resource_is_named_as_the_code_names_it() -> None:
    spec = CRD["spec"]
    assert (spec["group"], spec["names"]["kind"], spec["names"]["plural"]) == (names.GROUP, names.KIND, names.PLURAL)
    assert spec["versions"][0]["name"] == names.VERSION
    assert spec["names"]["shortNames"] == ["nm"]


def test_the_longest_name_is_the_one_that_children_allow() -> None:
    assert f"size() <= {names.MAX_MODEL_NAME} " in rules("")[0]["rule"]
    longest = "a" * names.MAX_MODEL_NAME
    children = (names.deployment(longest), names.templated_claim(longest), names.prepare_job(longest, "0" * 64, 999))
    assert max(map(len, children)) <= 63


def test_reserved_variables_are_refused() -> None:
    assert words(rules("spec.worker.env[]")[0]["rule"]) == {*names.RESERVED_ENV, *names.RESERVED_ENV_PREFIXES}


def test_reserved_labels_are_refused() -> None:
    assert words(rules("spec.worker.podLabels")[0]["rule"]) == set(names.RESERVED_LABEL_PREFIXES)


def test_the_operator_s_volumes_and_mounts_are_refused() -> None:
    volumes = {
        pod.SOURCE_VOLUME,
        pod.ARTIFACTS_VOLUME,
        pod.SCRATCH_VOLUME,
        pod.SECRETS_VOLUME,
        pod.SHARED_MEMORY_VOLUME,
    }
    assert words(rules("spec.worker.volumes[]")[0]["rule"]) == volumes
    mounts = {
        names.SOURCE_MOUNT,
        names.ARTIFACTS_MOUNT,
        names.SCRATCH_MOUNT,
        names.SECRETS_MOUNT,
        names.TERMINATION_LOG,
    }
    assert words(rules("spec.worker.volumeMounts[]")[0]["rule"]) == {*mounts, "/"}


def test_the_admin_port_is_refused() -> None:
    assert rules("spec.serving.port")[0]["rule"] == f"self != {names.ADMIN_PORT}"


OF_THE_COMMAND = {"model_type", "model_path", "compiled_model_path", "compile_only"}
"""Flags of inference_demo that are no field of NeuronConfig, and that spec has fields for."""


def full_spec() -> Any:
    """Every typed field that becomes one of NeuronConfig's."""
    model = neuron_model("smol").with_compile(
        torchDtype="bfloat16",
        batchSize=1,
        maxContextLength=1,
        sequenceLength=1,
        **dict.fromkeys(("fusedQKV", "sequenceParallel", "qkvKernel", "attentionKernel", "mlpKernel"), True),
        ccPipelineTilingFactor=1,
        onDeviceSampling={},
        padTokenID=0,
    )
    return model.build()["spec"]


def test_every_flag_with_a_field_of_its_own_is_refused_among_the_others() -> None:
    spec = NeuronModelSpec.model_validate(full_spec())
    assert {field for field in Compile.model_fields if getattr(spec.compile, field) is None} == set()
    typed = {*neuron_config.neuron_config(spec), *neuron_config.generation_config(spec)}
    refused = words(rules("spec.compile.extra[]")[0]["rule"])
    assert typed == refused - {"logical_neuron_cores"} - OF_THE_COMMAND, "another name of logical_nc_config"


def test_the_refusal_of_a_flag_names_the_field_that_sets_it() -> None:
    rule = rules("spec.compile.extra[]")[0]
    fields = dict(re.findall(r"'([a-z_]+)': '([A-Za-z.]+)'", rule["messageExpression"]))
    assert fields.keys() == words(rule["rule"])
    assert {f"spec.{field}" for field in fields.values()} <= NODES.keys()


def test_flags_of_the_layout_can_all_be_set_somewhere() -> None:
    """Only cast_type and the kernels without a field of their own are left to `extra`."""
    own = words(rules("spec.compile.extra[]")[1]["rule"])
    assert not (SWITCHES | CHOICES) & own


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("spec.compile.sequenceLength", f"Absent: {DEFAULT_SEQUENCE_LENGTH}."),
        ("spec.parallelism.logicalNeuronCoreConfig", f"Absent: {instance_type.DEFAULT_LOGICAL_CORE_CONFIG},"),
        (
            "spec.parallelism.logicalNeuronCoreConfig",
            f"{instance_type.PHYSICAL_CORES_PER_DEVICE} physical cores a device",
        ),
        ("spec.worker.terminationGracePeriodSeconds", f"the operator's, {pod.DEFAULT_GRACE_SECONDS}."),
        ("spec.worker.nodeSelector", f"{names.INSTANCE_TYPE_LABEL}: {names.DEFAULT_INSTANCE_TYPE}"),
        ("spec.worker.tolerations", names.NEURON_TAINT),
        ("spec.worker.resources", names.NEURON_RESOURCE),
        ("spec.scratch", names.SCRATCH_MOUNT),
        ("spec.scratch.hostPath.path", f"user {names.USER_ID} "),
        ("", names.ANNOTATION_RETRY),
        ("", names.ANNOTATION_RESTART),
        ("spec.worker.topologySpreadConstraints", names.LABEL_MODEL),
    ],
)
def test_a_description_tells_the_code_s_own_default(path: str, says: str) -> None:
    assert says in NODES[path]["description"]


def test_the_rule_about_lengths_assumes_the_engine_s_own_default() -> None:
    assert f": {DEFAULT_SEQUENCE_LENGTH})" in rules("spec.compile")[0]["rule"]


@pytest.mark.parametrize("part", ["spec", "status"])
def test_the_reference_is_the_definition_s(part: str) -> None:
    ((path, text),) = ((path, text) for path, text in reference_pages().items() if path.stem == part)
    assert path.read_text() == text, "run `python -m hack.schema`"
    borders = tuple(f"{field}[]" for field, node in crd.walk(crd.hand_written()) if "$kubernetes" in node)
    for field, _ in crd.walk(crd.hand_written()):
        if field.startswith(f"{part}.") and not field.endswith(("[]", "{}")) and not field.startswith(borders):
            name = field.rpartition(".")[2]
            assert f"\n| {name} | " in text or f"\n| **{name}** | " in text, field


def test_no_two_classes_share_a_name() -> None:
    counted = Counter(name for tree in modules(API, OPERATOR, WORKER) for name in classes(tree))
    assert {name for name, count in counted.items() if count > 1} == set()


def classes(tree: ast.Module) -> Iterator[str]:
    yield from (node.name for node in tree.body if isinstance(node, ast.ClassDef))
