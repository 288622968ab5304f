"""What `prepare` found a start to need becomes requests and shared memory of the serving pod, where the user says
nothing else; and never a limit."""

from typing import Any

import pytest

from neuronmodel_api import names
from neuronmodel_api.conditions import ConditionType
from neuronmodel_api.report import Devices, Progress, Sizing
from neuronmodel_api.status import DevicesStatus, Outcome
from neuronmodel_operator.manifests.quantities import parse_quantity, readable
from neuronmodel_operator.state.annotations import PREPARED, Remembered, encode
from tests.builders import NeuronModelBuilder, neuron_model
from tests.unit.operator.decide.test_rollout import upgraded
from tests.unit.operator.simulated import Cluster, Object, Run, config_of, failing

GIB = 1 << 30
SIZING = Sizing(
    host_memory_bytes=871 * 10**9,
    shared_memory_bytes=2 * GIB,
    scratch_bytes=40 * GIB,
    copy_bytes=900 * GIB,
    rank_bytes=13 * GIB,
    cache_bytes=GIB,
    reserve_bytes=2 * GIB,
    core_bytes=24 * GIB,
)
BASE = neuron_model("smol").on_neuron().with_strategy("ShardOnLoad").with_artifacts_claim("store")
CLAIMS = ("models", "store", "nvme")
DEVICES = {names.NEURON_RESOURCE: "1"}


def started(builder: NeuronModelBuilder = BASE, sizing: Sizing | None = SIZING) -> Cluster:
    cluster = Cluster.of(builder.build(), CLAIMS)
    cluster.prepare = lambda config: Run(sizing=sizing)
    cluster.run_until_ready()
    return cluster


def container(pod: Object) -> Object:
    (found,) = pod["spec"]["containers"]
    return found  # type: ignore[no-any-return]


def resources(cluster: Cluster) -> Object:
    (pod,) = cluster.serving
    return container(pod)["resources"]  # type: ignore[no-any-return]


def volume(pod: Object, name: str) -> Object | None:
    return next((found for found in pod["spec"]["volumes"] if found["name"] == name), None)


def test_a_start_requests_what_it_needs_and_limits_nothing() -> None:
    found = resources(started())
    assert found["requests"] == {"cpu": "250m", "memory": "812Gi", "ephemeral-storage": "40Gi"} | DEVICES
    assert found["limits"] == DEVICES


def test_what_nobody_worked_out_is_requested_as_ever() -> None:
    assert resources(started(sizing=None))["requests"] == {"cpu": "250m", "memory": "1Gi"} | DEVICES


@pytest.mark.parametrize(("builder", "cpu"), [(BASE, "250m"), (BASE.on_cpu(), "100m")])
def test_prepare_and_workers_ask_for_the_processors_that_they_need_to_be_placed(
    builder: NeuronModelBuilder, cpu: str
) -> None:
    """docs/sizing.md has the reasons."""
    cluster = started(builder)
    assert [request_of(job["spec"]["template"]) for job in cluster.live_jobs] == [cpu]
    assert [request_of(pod) for pod in cluster.serving] == [cpu]


@pytest.mark.parametrize("builder", [BASE, BASE.on_cpu()])
def test_a_clean_up_asks_for_next_to_nothing(builder: NeuronModelBuilder) -> None:
    cluster = started(builder.with_retention("Delete"))
    cluster.delete_model()
    cluster.run_until(lambda c: any(name.startswith("smol-cleanup") for name in c.jobs))
    (job,) = (job for name, job in cluster.jobs.items() if name.startswith("smol-cleanup"))
    assert request_of(job["spec"]["template"]) == "20m"


def test_the_users_processors_stand_for_each_pod() -> None:
    worker, prepare = ({"requests": {"cpu": cpu}} for cpu in ("3", "2"))
    cluster = started(BASE.on_cpu().with_worker(resources=worker).with_field("spec.prepare.resources", prepare))
    assert [request_of(job["spec"]["template"]) for job in cluster.live_jobs] == ["2"]
    assert [request_of(pod) for pod in cluster.serving] == ["3"]


def request_of(pod: Object) -> str:
    return str(container(pod)["resources"]["requests"]["cpu"])


@pytest.mark.parametrize(
    ("given", "memory", "disk"),
    [
        ({"requests": {"memory": "2Ti"}}, "2Ti", "40Gi"),
        ({"limits": {"memory": "1Ti"}}, None, "40Gi"),
        ({"requests": {"ephemeral-storage": "1Gi"}}, "812Gi", "1Gi"),
        ({"limits": {"ephemeral-storage": "1Ti"}}, "812Gi", None),
    ],
)
def test_what_the_user_sets_stands(given: Object, memory: str | None, disk: str | None) -> None:
    """A limit without a request is its own request, by the API server."""
    requests = resources(started(BASE.with_worker(resources=given)))["requests"]
    assert (requests.get("memory"), requests.get("ephemeral-storage")) == (memory, disk)


@pytest.mark.parametrize(
    ("scratch", "disk"),
    [
        ({"emptyDir": {}}, "40Gi"),
        ({"emptyDir": {"sizeLimit": "100Gi"}}, "40Gi"),
        ({"emptyDir": {"sizeLimit": "10G"}}, "9537Mi"),
        ({"ephemeral": {"size": "1Ti"}}, None),
        ({"persistentVolumeClaim": {"claimName": "nvme"}}, None),
    ],
)
def test_the_node_s_disk_is_asked_for_where_scratch_lies_on_it(scratch: Object, disk: str | None) -> None:
    """Not for copies, which a start does without, and not beyond what the user lets the volume take."""
    found = resources(started(BASE.with_field("spec.scratch", scratch)))
    assert found["requests"].get("ephemeral-storage") == disk


@pytest.mark.parametrize("scratch", [None, {"emptyDir": {}}])
def test_a_scratch_volume_without_a_limit_gets_none(scratch: Object | None) -> None:
    cluster = started(BASE.with_field("spec.scratch", scratch) if scratch else BASE)
    assert volume(cluster.serving[0], "scratch") == {"name": "scratch", "emptyDir": {}}


def test_shared_memory_is_mounted_as_large_as_it_has_to_be() -> None:
    (pod,) = started().serving
    expected = {"name": "shared-memory", "emptyDir": {"medium": "Memory", "sizeLimit": "2Gi"}}
    assert volume(pod, "shared-memory") == expected
    assert {"name": "shared-memory", "mountPath": "/dev/shm"} in container(pod)["volumeMounts"]


def test_shared_memory_that_nobody_needs_is_the_container_runtime_s() -> None:
    (pod,) = started(sizing=SIZING.model_copy(update={"shared_memory_bytes": 0})).serving
    assert volume(pod, "shared-memory") is None
    assert names.SHARED_MEMORY_MOUNT not in {mount["mountPath"] for mount in container(pod)["volumeMounts"]}


@pytest.mark.parametrize("path", ["/dev/shm", "/dev/shm/"])
def test_shared_memory_that_the_user_mounts_is_the_only_one(path: str) -> None:
    builder = BASE.with_worker(
        volumes=[{"name": "mine", "emptyDir": {"medium": "Memory"}}], volumeMounts=[{"name": "mine", "mountPath": path}]
    )
    (pod,) = started(builder).serving
    assert volume(pod, "shared-memory") is None
    assert [m["name"] for m in container(pod)["volumeMounts"] if m["mountPath"].startswith("/dev/shm")] == ["mine"]


def test_prepare_itself_asks_for_none_of_it() -> None:
    cluster = started()
    cluster.edit("compile.batchSize", 2)
    cluster.run(2)
    (job,) = cluster.live_jobs
    template = job["spec"]["template"]
    assert container(template)["resources"] == {"requests": {"cpu": "250m", "memory": "1Gi"}}
    assert volume(template, "shared-memory") is None


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (1, "1Mi"),
        (1 << 20, "1Mi"),
        ((1 << 20) + 1, "2Mi"),
        (GIB, "1Gi"),
        (16 * GIB + 1, "17Gi"),
        (871 * 10**9, "812Gi"),
    ],
)
def test_quantities_are_rounded_up_to_what_can_be_read(size: int, text: str) -> None:
    assert readable(size) == text
    quantity = parse_quantity(text)
    assert quantity is not None
    assert quantity >= size


# What was made before anybody sized.


def test_a_worker_that_was_made_without_sizing_stays_until_its_inputs_change() -> None:
    cluster = upgraded("neuron-405b")
    cluster.prepare = lambda config: Run(sizing=SIZING)
    cluster.run(10)
    (before,) = cluster.serving
    assert cluster.reason(ConditionType.UPDATE_AVAILABLE) == ("False", "UpToDate")
    assert cluster.status.sizing is None
    cluster.edit("compile.batchSize", 2)
    cluster.run_until_ready()
    (after,) = cluster.serving
    memory = [container(pod)["resources"]["requests"]["memory"] for pod in (before, after)]
    assert memory == ["1Gi", "812Gi"]


def test_what_was_remembered_of_a_sizing_is_written_back_as_it_was() -> None:
    """Else a field that a version adds would change the hash that the pods of the version before were made from."""
    raw = (
        '{"attempt":1,"inputsHash":"x","result":{"bytes":0,"cache":"Hit","compiledKey":"c","modelType":"llama",'
        '"sizing":{"hostMemoryBytes":9,"rankBytes":1},"sourceBytes":0,"sourceFingerprint":"f"}}'
    )
    prepared = Remembered({PREPARED: raw}).prepared
    assert prepared is not None
    assert encode(prepared) == raw


# What is reported.


def test_status_tells_what_a_start_needs() -> None:
    found = started().status.sizing
    assert found is not None
    assert found.model_dump() == SIZING.model_dump()


FOUND = Devices(count=16, cores=64, logical_core_config=2, driver="2.24.7", versions={"neuronx-cc": "2.22"})
DEVICES_STATUS = DevicesStatus(
    count=16, cores=64, logical_neuron_core_config=2, driver_version="2.24.7", versions={"neuronx-cc": "2.22"}
)


def test_a_start_tells_the_devices_that_it_found() -> None:
    cluster = Cluster.of(BASE.build(), CLAIMS)
    cluster.serve = lambda config: Run(devices=FOUND)
    cluster.run_until_ready()
    cluster.run(5)
    assert [start.devices for start in cluster.status.starts] == [DEVICES_STATUS]


def test_a_start_that_failed_tells_them_too() -> None:
    cluster = Cluster.of(BASE.build(), CLAIMS)
    broken = failing("DeviceFailed", 1, "A device failed. Take the node out of service.")
    cluster.serve = lambda config: Run(broken.failure, broken.exit_code, devices=FOUND)
    cluster.run_until(lambda c: any(start.outcome is Outcome.FAILED for start in c.status.starts))
    assert cluster.status.starts[-1].devices == DEVICES_STATUS
    assert cluster.reason() == ("False", "DeviceFailed")


# How long devices are waited for.


def test_devices_that_somebody_holds_are_what_a_start_waits_for() -> None:
    cluster = Cluster.of(BASE.build(), CLAIMS)
    cluster.serve = lambda config: Run(milliseconds=10**9)
    cluster.run_until(lambda c: c.reason(ConditionType.LOADED) == ("Unknown", "Loading"))
    (pod,) = cluster.serving
    report = cluster.reports[pod["metadata"]["uid"]]
    waits = Progress(phase="DevicesAwaited", started_at=cluster.now)
    cluster.reports[pod["metadata"]["uid"]] = report.model_copy(update={"progress": waits})
    cluster.run(3)
    assert cluster.reason() == cluster.reason(ConditionType.LOADED) == ("Unknown", "WaitingForDevices")
    assert pod["metadata"]["name"] in cluster.condition().message
    cluster.serve = lambda config: Run()
    cluster.run_until_ready()


def test_patience_that_changed_restarts_nothing_and_is_taken_up_with_the_next_change() -> None:
    cluster = started()
    (pod,) = cluster.serving
    cluster.edit("serving.startTimeoutSeconds", 60)
    cluster.run(10)
    assert cluster.reason(ConditionType.UPDATE_AVAILABLE) == ("False", "UpToDate")
    cluster.edit("sharding.weights", "Streamed")
    cluster.run(10)
    assert [found["metadata"]["uid"] for found in cluster.serving] == [pod["metadata"]["uid"]]
    assert config_of(pod).start_timeout_seconds == 3600
    cluster.edit("worker.podLabels", {"team": "search"})
    cluster.run_until_ready()
    assert [config_of(found).start_timeout_seconds for found in cluster.serving] == [60]


def test_a_resting_model_takes_up_the_patience_it_is_woken_with() -> None:
    cluster = started()
    for path, value in (("suspend", True), ("serving.startTimeoutSeconds", 60), ("suspend", False)):
        cluster.edit(path, value)
        cluster.run(10)
    cluster.run_until_ready()
    assert [config_of(pod).start_timeout_seconds for pod in cluster.serving] == [60]


# What prepare has to know.


@pytest.mark.parametrize(
    ("path", "value", "jobs"),
    [
        ("sharding.weights", "Native", 2),
        ("sharding.weights", "Streamed", 1),
        ("serving.server", "VLLM", 2),
        ("serving.server", "OpenAI", 1),
    ],
)
def test_prepare_looks_again_where_another_code_will_load_the_weights(path: str, value: str, jobs: int) -> None:
    cluster = started()
    before = cluster.serving[0]["metadata"]["uid"]
    cluster.edit(path, value)
    cluster.run_until_ready()
    assert len([line for line in cluster.log if line.startswith("create Job")]) == jobs
    field: Any = path.rpartition(".")[2]
    assert getattr(config_of(cluster.serving[0]), field) == value
    replaced = cluster.serving[0]["metadata"]["uid"] != before
    assert replaced == (jobs == 2)


def test_prepare_looks_at_further_arguments_of_vllm_before_the_worker_is_replaced() -> None:
    cluster = started()
    cluster.edit("serving.server", "VLLM")
    cluster.run_until_ready()
    jobs, pod = set(cluster.jobs), cluster.serving[0]["metadata"]["uid"]
    cluster.edit("serving.extraArgs", ["--port", "80"])
    cluster.prepare = lambda config: failing("FlagsRefused") if config.extra_args else Run()
    cluster.run_until(lambda c: c.reason(ConditionType.ARTIFACTS_READY)[1] == "FlagsRefused", steps=20)
    assert [each["metadata"]["uid"] for each in cluster.serving] == [pod]
    cluster.prepare = lambda config: Run()
    cluster.edit("serving.extraArgs", ["--seed", "1"])
    cluster.run_until(lambda c: [p["metadata"]["uid"] for p in c.serving] not in ([], [pod]))
    cluster.run_until_ready()
    assert set(cluster.jobs) != jobs
    assert config_of(cluster.serving[0]).extra_args == ("--seed", "1")
