"""What the API server refuses, it refuses with a sentence; what it should take, it takes."""

import json

import pytest
from kubernetes.client.exceptions import ApiException

from neuronmodel_api import names
from tests import crd
from tests.builders import NeuronModelBuilder, neuron_model
from tests.cluster.conftest import Models
from tests.cluster.rules import RULES, Rule, with_mount

BY_NAME = [pytest.param(rule, id=rule.rule) for rule in RULES]


@pytest.mark.parametrize("rule", BY_NAME)
def test_a_rule_takes_what_is_good(models: Models, rule: Rule) -> None:
    if rule.stored:
        models.create(rule.stored)
        models.check_update(rule.good)
    else:
        models.check(rule.good)


@pytest.mark.parametrize("rule", BY_NAME)
def test_a_rule_refuses_what_is_bad_and_says_what_to_do(models: Models, rule: Rule) -> None:
    if rule.stored:
        models.create(rule.stored)
    with pytest.raises(ApiException) as refused:
        (models.check_update if rule.stored else models.check)(rule.bad)
    assert refused.value.status == 422
    (cause,) = causes(refused.value)
    assert rule.says in cause


def test_every_rule_of_the_definition_has_a_pair() -> None:
    defined = {
        f"{path}#{number}"
        for path, node in crd.walk(crd.schema_of(crd.definition()))
        for number, _ in enumerate(node.get("x-kubernetes-validations", ()), start=1)
    }
    assert {rule.rule for rule in RULES} == defined


@pytest.mark.parametrize(
    ("name", "suggested"),
    [
        ("405b.llama", "m-405b-llama"),
        ("a" * 41, "a" * 40),
        ("a" * 39 + ".b", "a" * 39),
        ("7", "m-7"),
    ],
)
def test_a_name_that_no_service_may_have_is_refused_with_one_that_works(
    models: Models, name: str, suggested: str
) -> None:
    with pytest.raises(ApiException) as refused:
        models.check(neuron_model(name))
    assert causes(refused.value)[0].endswith(f"for instance {suggested}")
    models.check(neuron_model(suggested))


@pytest.mark.parametrize("name", ["a", "llama-3-1-8b", "a" * 40])
def test_a_name_that_a_service_may_have_is_taken(models: Models, name: str) -> None:
    models.check(neuron_model(name))


@pytest.mark.parametrize("own", [*names.RESERVED_ENV, *(f"{prefix}X" for prefix in names.RESERVED_ENV_PREFIXES)])
def test_no_variable_of_the_operator_can_be_set(models: Models, own: str) -> None:
    refuses(models, neuron_model("smol").with_worker(env=[{"name": own, "value": "1"}]), f"the variable {own} ")


@pytest.mark.parametrize("flag", ["save_sharded_checkpoint", "skip_sharding", "skip_compile", "on_cpu"])
def test_no_flag_that_the_strategy_sets_can_be_set(models: Models, flag: str) -> None:
    refuses(models, neuron_model("smol").with_flag(flag, True), f"extra cannot set {flag}, which the operator sets")


@pytest.mark.parametrize(
    ("flag", "field"),
    [
        ("model_path", "model.source"),
        ("compiled_model_path", "artifacts"),
        ("model_type", "model.type"),
        ("compile_only", "suspend"),
        ("logical_neuron_cores", "parallelism.logicalNeuronCoreConfig"),
    ],
)
def test_the_refusal_of_a_command_line_flag_names_its_field(models: Models, flag: str, field: str) -> None:
    refuses(models, neuron_model("smol").with_flag(flag, "x"), f"has a field of its own: use spec.{field}")


def test_shared_memory_may_be_a_volume_of_the_user_s(models: Models) -> None:
    """Before the operator mounted any, who needed more than the container runtime's had to bring it."""
    models.check(with_mount(names.SHARED_MEMORY_MOUNT))


@pytest.mark.parametrize("prefix", names.RESERVED_LABEL_PREFIXES)
def test_no_label_of_the_operator_can_be_set(models: Models, prefix: str) -> None:
    refuses(models, neuron_model("smol").with_worker(podLabels={f"{prefix}name": "x"}), "are the operator's own")


OWN_PATHS = (names.SOURCE_MOUNT, names.ARTIFACTS_MOUNT, names.SCRATCH_MOUNT, names.SECRETS_MOUNT, names.TERMINATION_LOG)


@pytest.mark.parametrize("own", OWN_PATHS)
@pytest.mark.parametrize("variant", ["{}", "{}/", "{}/below"])
def test_nothing_is_mounted_at_or_below_what_the_operator_mounts(models: Models, own: str, variant: str) -> None:
    refuses(models, with_mount(variant.format(own)), "clashes with one of the operator's own")


@pytest.mark.parametrize("above", ["/", "/run", "/run/secrets/", "/dev"])
def test_nothing_is_mounted_over_what_the_operator_mounts(models: Models, above: str) -> None:
    refuses(models, with_mount(above), "clashes with one of the operator's own")


def test_a_host_path_cannot_come_in_as_a_volume(models: Models) -> None:
    """Even by a client that lets the API server drop unknown fields: what is left has no kind."""
    host = neuron_model("smol").with_worker(volumes=[{"name": "host", "hostPath": {"path": "/"}}])
    with pytest.raises(ApiException) as strict:
        models.check(host)
    assert "unknown field" in str(strict.value.body)
    refuses(models, host.with_worker(volumes=[{"name": "host"}]), "a volume is of exactly one kind")


@pytest.mark.parametrize("degree", [1, 64])
def test_all_ranks_named_in_words_of_their_own_are_all_ranks(models: Models, degree: int) -> None:
    whole = {"tensorParallelDegree": degree, "startRank": 0, "localRanks": degree}
    models.check(neuron_model("smol").with_field("spec.parallelism", whole))


def refuses(models: Models, model: NeuronModelBuilder, says: str) -> None:
    with pytest.raises(ApiException) as refused:
        models.check(model)
    assert any(says in cause for cause in causes(refused.value)), causes(refused.value)


def causes(error: ApiException) -> list[str]:
    """Of a 422, each with the field that it is about."""
    details = json.loads(error.body or "{}")["details"]
    return [f"{cause['field']}: {cause['message']}" for cause in details["causes"]]
