"""What the version before left behind is taken over as it is: no finished Job runs again, no worker is replaced."""

import copy
import json
from dataclasses import replace

import pytest
import yaml

from neuronmodel_api import names
from neuronmodel_api.conditions import ConditionType
from neuronmodel_api.config import Strategy
from neuronmodel_operator.manifests.deployment import stored
from neuronmodel_operator.state.annotations import RENDERED
from tests.builders import NeuronModelBuilder
from tests.paths import MANIFESTS
from tests.unit.operator.manifests.test_golden import CPU, LLAMA_405B, OVERRIDDEN
from tests.unit.operator.simulated import EPOCH, SETTINGS, Cluster, Object, config_of, stamp

FORMER = MANIFESTS / "former"
"""What version 0.1 rendered; never rewritten."""
MODELS = {"cpu": CPU, "neuron-405b": LLAMA_405B, "overridden": OVERRIDDEN}


def upgraded(name: str, *, kinds: tuple[str, ...] = ("Job", "Deployment"), reason: str | None = None) -> Cluster:
    """As the former operator left it, with its Job done; `reason` is that of the strategy in force in its status."""
    builder: NeuronModelBuilder = MODELS[name]
    cluster = Cluster.of(builder.build())
    cluster.settings = replace(SETTINGS, allow_host_path=True)
    cluster.add_claim("store", "ReadWriteMany")
    for manifest in former(name):
        identity = {"uid": f"uid-{manifest['kind']}", "creationTimestamp": stamp(EPOCH), "generation": 1}
        manifest["metadata"] |= identity
        if manifest["kind"] == "Job" and "Job" in kinds:
            done = {"type": "Complete", "status": "True", "lastTransitionTime": stamp(EPOCH)}
            manifest["status"] = {"conditions": [done]} if "Deployment" in kinds else {}
            cluster.jobs[manifest["metadata"]["name"]] = manifest
        elif manifest["kind"] == "Deployment" and "Deployment" in kinds:
            cluster.deployment = manifest
        elif manifest["kind"] == "PersistentVolumeClaim":
            cluster.claims[manifest["metadata"]["name"]] = manifest
    if reason:
        cluster.model["status"] = {"strategy": {"inForce": "ShardOnCompile", "reason": reason}}
    return cluster


def former(name: str) -> list[Object]:
    return list(yaml.safe_load_all((FORMER / f"{name}.yaml").read_text()))


def of_kind(name: str, kind: str) -> Object:
    return next(manifest for manifest in former(name) if manifest["kind"] == kind)


@pytest.mark.parametrize("reason", [None, "its own"])
@pytest.mark.parametrize("name", MODELS)
def test_an_upgrade_alone_runs_no_job_and_replaces_no_worker(name: str, reason: str | None) -> None:
    explicit = MODELS[name].build()["spec"].get("sharding")
    cluster = upgraded(name, reason=reason and ("Specified" if explicit else "NotSpecified"))
    before = copy.deepcopy(cluster.deployment)
    cluster.run(40)
    assert cluster.reason() == ("True", "Serving")
    assert [line for line in cluster.log if "Job" in line or "Deployment" in line] == []
    assert cluster.deployment is not None
    assert before is not None
    assert cluster.deployment["spec"]["template"] == before["spec"]["template"]
    strategy = cluster.status.strategy
    assert strategy is not None
    assert (strategy.in_force, strategy.reason) == (
        Strategy.SHARD_ON_COMPILE,
        "Specified" if explicit else "NotSpecified",
    )


def test_a_spec_without_new_fields_is_rendered_as_before_to_the_letter() -> None:
    """Else the condition would offer another rendering."""
    cluster = upgraded("neuron-405b")
    cluster.run(10)
    assert cluster.reason(ConditionType.UPDATE_AVAILABLE) == ("False", "UpToDate")


def test_a_cpu_engine_s_smaller_request_is_offered_and_is_all_that_differs() -> None:
    cluster = upgraded("cpu")
    former = of_kind("cpu", "Deployment")["spec"]["template"]
    cluster.run(10)
    assert cluster.reason(ConditionType.UPDATE_AVAILABLE) == ("True", "NewRendering")
    cluster.annotate(names.ANNOTATION_RESTART, "1")
    cluster.run(10)
    cluster.run_until_ready()
    assert cluster.deployment is not None
    (container,), (before,) = (
        template["spec"]["containers"] for template in (cluster.deployment["spec"]["template"], former)
    )
    assert (before["resources"]["requests"]["cpu"], container["resources"]["requests"]["cpu"]) == ("250m", "100m")
    before["resources"]["requests"]["cpu"] = "100m"
    assert {**container, "env": None} == {**before, "env": None}
    assert [line for line in cluster.log if "Job" in line] == []


def test_a_prepare_that_found_no_room_before_the_upgrade_asks_for_less_after_it() -> None:
    cluster = upgraded("cpu", kinds=("Job",), reason="NotSpecified")
    cluster.can_schedule = lambda pod: "Insufficient cpu." if cpu(pod) == "250m" else None
    for _ in range(3):
        cluster.step()
    cluster.run_until_ready()


def cpu(pod: Object) -> str:
    return str(pod["spec"]["containers"][0]["resources"]["requests"]["cpu"])


def test_a_scratch_volume_that_the_spec_names_is_offered_for_copies_and_restarts_nobody() -> None:
    cluster = upgraded("overridden")
    cluster.run(10)
    assert cluster.reason(ConditionType.UPDATE_AVAILABLE) == ("True", "NewRendering")
    cluster.annotate(names.ANNOTATION_RESTART, "1")
    cluster.run(10)
    cluster.run_until_ready()
    assert [config_of(pod).scratch_tier for pod in cluster.serving] == [True, True]
    assert [line for line in cluster.log if "Job" in line] == []


def test_a_job_that_began_before_the_upgrade_is_not_made_again() -> None:
    cluster = upgraded("cpu", kinds=("Job",), reason="NotSpecified")
    for _ in range(3):
        cluster.step()
    cluster.run_until_ready()
    assert [line for line in cluster.log if "Job" in line] == []
    assert config_of(cluster.serving[0]).strategy is Strategy.SHARD_ON_COMPILE


@pytest.mark.parametrize(
    ("path", "value"), [("parallelism.tensorParallelDegree", 2), ("sharding", {"strategy": "Auto"})]
)
def test_what_an_absent_strategy_meant_is_kept_until_the_inputs_change(path: str, value: object) -> None:
    cluster = upgraded("cpu", reason="NotSpecified")
    cluster.run(10)
    cluster.edit("serving.startTimeoutSeconds", 60)
    cluster.run(10)
    assert cluster.status.strategy is not None
    assert cluster.status.strategy.reason == "NotSpecified"
    cluster.chooses = Strategy.SHARD_ON_LOAD
    cluster.edit(path, value)
    cluster.run_until_ready()
    assert config_of(cluster.serving[0]).strategy is Strategy.SHARD_ON_LOAD


def test_a_strategy_that_is_taken_out_of_the_spec_becomes_auto() -> None:
    cluster = Cluster.of(CPU.with_strategy("ShardOnCompile").build())
    cluster.run_until_ready()
    cluster.chooses = Strategy.SHARD_ON_LOAD
    cluster.edit("sharding", {})
    cluster.run_until_ready()
    assert config_of(cluster.serving[0]).strategy is Strategy.SHARD_ON_LOAD


@pytest.mark.parametrize("name", MODELS)
def test_what_is_remembered_on_a_deployment_is_written_back_as_it_was(name: str) -> None:
    cluster = upgraded(name)
    cluster.run(10)
    assert cluster.deployment is not None
    assert cluster.deployment["metadata"]["annotations"] == of_kind(name, "Deployment")["metadata"]["annotations"]


def with_worker_config(deployment: Object, config: str) -> Object:
    """Its kept template, with another configuration of the worker."""
    kept = json.loads(deployment["metadata"]["annotations"][RENDERED])
    (variable,) = (item for item in kept["spec"]["containers"][0]["env"] if item["name"] == names.ENV_CONFIG)
    variable["value"] = config
    return {"metadata": {"annotations": {RENDERED: json.dumps(kept)}}}


def test_a_template_of_a_later_version_is_kept_though_its_worker_config_is_not_known_here() -> None:
    kept = stored(with_worker_config(of_kind("cpu", "Deployment"), '{"weights":"Dreamt","startTimeoutSeconds":60}'))
    assert kept is not None
    assert kept.start_timeout_seconds == 60


@pytest.mark.parametrize("config", ["", "{", "[]", '{"startTimeoutSeconds":"long"}'])
def test_a_template_that_somebody_garbled_is_not_kept(config: str) -> None:
    assert stored(with_worker_config(of_kind("cpu", "Deployment"), config)) is None
