"""What follows from the instance type in the node selector: devices, logical cores, the compiler's platform, and when
`prepare` looks again."""

import pytest

from neuronmodel_api import names
from neuronmodel_api.conditions import ConditionType
from neuronmodel_api.machines import DEFAULT_MACHINE, MACHINES
from neuronmodel_api.spec import NeuronModelSpec
from neuronmodel_operator.manifests import instance_type as machine
from tests.builders import NeuronModelBuilder, neuron_model
from tests.unit.operator.decide.test_rollout import upgraded
from tests.unit.operator.simulated import Cluster, Object, config_of

BASE = neuron_model("smol").on_neuron().with_strategy("ShardOnLoad").with_artifacts_claim("store")
CLAIMS = ("models", "store")


def on(instance_type: str, builder: NeuronModelBuilder = BASE) -> NeuronModelBuilder:
    return builder.with_field("spec.worker.nodeSelector", {names.INSTANCE_TYPE_LABEL: instance_type})


def started(builder: NeuronModelBuilder) -> Cluster:
    cluster = Cluster.of(builder.build(), CLAIMS)
    cluster.run_until_ready()
    return cluster


def container(pod: Object) -> Object:
    (found,) = pod["spec"]["containers"]
    return found  # type: ignore[no-any-return]


def environment(pod: Object) -> dict[str, str]:
    return {item["name"]: item.get("value", "") for item in container(pod)["env"]}


def jobs_made(cluster: Cluster) -> int:
    return len([line for line in cluster.log if line.startswith("create Job")])


def test_the_machine_of_the_table_is_the_one_that_is_selected() -> None:
    assert DEFAULT_MACHINE.name == names.DEFAULT_INSTANCE_TYPE


@pytest.mark.parametrize("name", MACHINES)
def test_all_ranks_of_a_machine_take_all_its_devices(name: str) -> None:
    known = MACHINES[name]
    for size in known.logical_core_configs:
        builder = on(name).with_degree(known.logical_cores(size))
        builder = builder.with_field("spec.parallelism.logicalNeuronCoreConfig", size)
        assert machine.num_devices(NeuronModelSpec.model_validate(builder.build()["spec"])) == known.devices


@pytest.mark.parametrize(
    ("instance_type", "devices", "logical", "platform"),
    [
        ("trn2.48xlarge", "1", "2", "trn2"),
        ("trn2.3xlarge", "1", "2", "trn2"),
        ("trn1.32xlarge", "2", "1", "trn1"),
        ("trn9.metal", "1", "2", "trn2"),
    ],
)
def test_devices_and_cores_are_the_machine_s(instance_type: str, devices: str, logical: str, platform: str) -> None:
    cluster = started(on(instance_type).with_degree(4))
    (pod,), (job,) = cluster.serving, cluster.live_jobs
    assert container(pod)["resources"]["limits"] == {names.NEURON_RESOURCE: devices}
    assert environment(pod)["NEURON_RT_VIRTUAL_CORE_SIZE"] == logical
    assert environment(pod)["NEURON_RT_NUM_CORES"] == "4"
    assert config_of(pod).neuron_config["logical_nc_config"] == int(logical)
    assert config_of(pod).instance_type == instance_type
    assert environment(job["spec"]["template"])["NEURON_PLATFORM_TARGET_OVERRIDE"] == platform
    assert "NEURON_PLATFORM_TARGET_OVERRIDE" not in environment(pod), "the device is asked"


def test_a_time_limit_and_a_platform_of_the_user_s_own_win() -> None:
    own = {"NEURON_RT_EXEC_TIMEOUT": "900", "NEURON_PLATFORM_TARGET_OVERRIDE": "trn3"}
    cluster = started(BASE.with_worker(env=[{"name": name, "value": value} for name, value in own.items()]))
    (pod,), (job,) = cluster.serving, cluster.live_jobs
    assert environment(pod)["NEURON_RT_EXEC_TIMEOUT"] == "900"
    assert environment(job["spec"]["template"])["NEURON_PLATFORM_TARGET_OVERRIDE"] == "trn3"


def test_no_variable_and_no_device_is_a_cpu_engine_s() -> None:
    (pod,) = started(on("trn1.32xlarge", BASE.on_cpu())).serving
    assert not [name for name in environment(pod) if name.startswith("NEURON_")]
    assert container(pod)["resources"] == {"requests": {"cpu": "100m", "memory": "1Gi"}}
    assert config_of(pod).instance_type == ""


def test_cores_that_the_machine_cannot_make_are_refused_until_they_are_changed() -> None:
    builder = on("trn1.32xlarge").with_field("spec.parallelism.logicalNeuronCoreConfig", 2)
    cluster = Cluster.of(builder.build(), CLAIMS)
    cluster.run(10)
    assert cluster.reason() == cluster.reason(ConditionType.SCHEDULED) == ("False", "DoesNotFit")
    assert "a trn1.32xlarge makes logical NeuronCores of 1 physical" in cluster.condition().message
    assert jobs_made(cluster) == 0
    cluster.edit("parallelism.logicalNeuronCoreConfig", 1)
    cluster.run_until_ready()


# Dynamic resource allocation.

CLAIM = {"name": "devices", "resourceClaimTemplateName": "neuron"}


def test_claims_take_the_place_of_devices_in_the_serving_pod_alone() -> None:
    cluster = started(BASE.with_worker(resourceClaims=[CLAIM, {"name": "fabric", "resourceClaimName": "efa"}]))
    (pod,), (job,) = cluster.serving, cluster.live_jobs
    assert container(pod)["resources"] == {
        "claims": [{"name": "devices"}, {"name": "fabric"}],
        "requests": {"cpu": "250m", "memory": "1Gi"},
    }
    assert pod["spec"]["resourceClaims"] == [CLAIM, {"name": "fabric", "resourceClaimName": "efa"}]
    template = job["spec"]["template"]
    assert "resourceClaims" not in template["spec"]
    assert "claims" not in container(template)["resources"]


def test_devices_that_are_requested_alongside_a_claim_are_requested() -> None:
    resources = {"limits": {names.NEURON_RESOURCE: 4}}
    (pod,) = started(BASE.with_worker(resourceClaims=[CLAIM], resources=resources)).serving
    assert container(pod)["resources"]["limits"] == {names.NEURON_RESOURCE: "4"}
    assert container(pod)["resources"]["claims"] == [{"name": "devices"}]


@pytest.mark.parametrize("none", [0, "0"])
def test_devices_that_are_asked_for_by_another_name_are_not_asked_for_twice(none: object) -> None:
    """Cores, for instance, together with 0 devices."""
    resources = {"limits": {names.NEURON_RESOURCE: none, "aws.amazon.com/neuroncore": 4}}
    (pod,) = started(BASE.with_worker(resources=resources)).serving
    assert container(pod)["resources"]["limits"] == {names.NEURON_RESOURCE: "0", "aws.amazon.com/neuroncore": 4}


# When prepare looks again.


def test_another_machine_makes_prepare_look_again_and_another_label_does_not() -> None:
    cluster = started(BASE)
    cluster.edit("worker.nodeSelector", {names.INSTANCE_TYPE_LABEL: "trn2.3xlarge"})
    cluster.run_until_ready()
    assert jobs_made(cluster) == 2
    assert [config_of(pod).instance_type for pod in cluster.serving] == ["trn2.3xlarge"]
    cluster.edit("worker.nodeSelector", {"pool": "blue", names.INSTANCE_TYPE_LABEL: "trn2.3xlarge"})
    cluster.run_until_ready()
    assert jobs_made(cluster) == 2


def test_a_machine_where_the_job_ran_is_none_that_it_looked_at() -> None:
    """A Job with a node selector of its own looks whether the model fits the worker's machine."""
    cluster = started(BASE.with_field("spec.prepare.nodeSelector", {names.INSTANCE_TYPE_LABEL: "trn2.3xlarge"}))
    cluster.edit("worker.nodeSelector", {names.INSTANCE_TYPE_LABEL: "trn2.3xlarge"})
    cluster.run_until_ready()
    assert jobs_made(cluster) == 2
    assert [config_of(job["spec"]["template"]).instance_type for job in cluster.live_jobs] == ["trn2.3xlarge"]


def test_other_flags_of_the_compiler_are_prepared_while_the_former_worker_serves() -> None:
    cluster = started(BASE)
    (pod,) = cluster.serving
    cluster.edit("worker.env", [{"name": "OTHER", "value": "1"}, {"name": "NEURON_CC_FLAGS", "value": "-O3"}])
    cluster.run(2)
    assert jobs_made(cluster) == 2
    assert [found["metadata"]["uid"] for found in cluster.serving] == [pod["metadata"]["uid"]]
    cluster.run_until_ready()
    cluster.edit("worker.env", [{"name": "NEURON_CC_FLAGS", "value": "-O3"}])
    cluster.run_until_ready()
    assert jobs_made(cluster) == 2


def test_flags_of_a_compiler_that_is_not_there_are_prepared_for_nobody() -> None:
    cluster = started(BASE.on_cpu())
    cluster.edit("worker.env", [{"name": "NEURON_CC_FLAGS", "value": "-O3"}])
    cluster.run_until_ready()
    assert jobs_made(cluster) == 1


def test_the_usual_machine_may_be_named() -> None:
    cluster = started(BASE)
    (pod,) = cluster.serving
    cluster.edit("worker.nodeSelector", {names.INSTANCE_TYPE_LABEL: names.DEFAULT_INSTANCE_TYPE})
    cluster.run(10)
    assert [found["metadata"]["uid"] for found in cluster.serving] == [pod["metadata"]["uid"]]
    assert jobs_made(cluster) == 1


def test_nodes_matter_to_no_prepare_of_the_cpu_engine() -> None:
    cluster = started(BASE.on_cpu())
    cluster.edit("worker.nodeSelector", {names.INSTANCE_TYPE_LABEL: "m7i.large"})
    cluster.run_until_ready()
    assert jobs_made(cluster) == 1


def test_what_an_earlier_version_prepared_for_a_machine_holds_for_this_one_alone() -> None:
    """It did not ask for the machine; what it made for a trn2.3xlarge is not prepared again for one."""
    cluster = upgraded("overridden")
    cluster.run(20)
    assert jobs_made(cluster) == 0
    cluster.edit("worker.podLabels", {"team": "other"})
    cluster.run_until_ready()
    assert jobs_made(cluster) == 0
    cluster.edit("worker.nodeSelector", {names.INSTANCE_TYPE_LABEL: "trn1.32xlarge"})
    cluster.run_until_ready()
    assert jobs_made(cluster) == 1
