"""Engine Neuron from `kubectl apply` to an answer, and what its status says when something is wrong.

The Neuron SDK is the tests' stand-in, which computes on processors; nothing here says how fast anything is.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from neuronmodel_api import names
from neuronmodel_api.conditions import ConditionType
from neuronmodel_api.status import Start

from . import neuron, reference
from .accounting import phases
from .chat import completion
from .cluster import Object
from .neuronmodels import Applied, Expected, neuron_model, wait_for_starts
from .room import Room, claim
from .waiting import eventually

PROMPT = "w10 w20 w30"
TOKENS = 12
COMMON = "prepared"
"""The claim that all share who take up the same compiled model: it is made once."""
ON_COMMON: dict[str, Any] = {"artifacts": {"template": None, "persistentVolumeClaim": {"claimName": COMMON}}}
# Ready at last, each in its own way; all of one checkpoint.
SERVED: dict[str, dict[str, Any]] = {
    "kept": ON_COMMON | {"strategy": "ShardOnCompile"},
    "sliced": ON_COMMON | {"strategy": "ShardOnLoad"},
    "native-kept": ON_COMMON | {"strategy": "ShardOnCompile", "sharding": {"weights": "Native"}},
    "native-sliced": ON_COMMON | {"strategy": "ShardOnLoad", "sharding": {"weights": "Native"}},
    "vllm": ON_COMMON | {"strategy": "ShardOnCompile", "serving": {"server": "VLLM"}},
    "busy": ON_COMMON | {"strategy": "ShardOnLoad", "fail": "cores-busy:3"},
    "recompiled": {"strategy": "ShardOnLoad", "fail": "compiler-70:1"},
}
# What a start fails with, and a word of its message that says what to do.
FAILING: dict[str, tuple[dict[str, Any], str, str]] = {
    "no-device": ({"devices": False}, "NoNeuronDevice", "device"),
    "other-cores": ({"fail": "logical-cores"}, "LogicalCoreMismatch", "logicalNeuronCoreConfig"),
    "device-memory": ({"fail": "device-memory"}, "DeviceMemoryExhausted", "status=4"),
    "other-version": ({"fail": "neff-version"}, "NeuronVersionMismatch", "NEFF version mismatch"),
}


@dataclass(frozen=True)
class Served:
    room: Room
    models: dict[str, Applied]
    starts: dict[str, Start]
    partial: Applied
    never_compiled: Applied
    on_processors: Applied
    """By vLLM, whose plugin is for devices."""

    def expected(self) -> str:
        return reference.answer(self.room.folder / "tiny", PROMPT, num_tokens=TOKENS)


@pytest.fixture(scope="module")
def served(room: Room) -> Served:
    """All side by side, with one that only prepares two of its ranks and one that no compiler compiles."""
    path = room.tiny("tiny")
    room.cluster.apply(claim(COMMON, room.namespace, storage_class="local", size="1Gi"))
    applied = {name: room.apply(neuron.on_neuron(name, path, **spec))[0] for name, spec in SERVED.items()}
    partial, _ = room.apply(
        neuron.on_neuron("partial", path, suspend=True, parallelism={"startRank": 1, "localRanks": 2})
    )
    never, _ = room.apply(neuron.on_neuron("never", path, fail="compiler-70"))
    on_processors, _ = room.apply(
        neuron_model("on-processors", path, serving={"server": "VLLM"}, worker={"image": neuron.image()})
    )
    starts = wait_for_starts(*map(Expected, applied.values()))
    return Served(room, applied, dict(zip(applied, starts, strict=True)), partial, never, on_processors)


@pytest.fixture(scope="module")
def failing(served: Served) -> dict[str, Applied]:
    """They differ from `sliced` in their environment alone, and take up what it compiled."""
    path = served.room.path("tiny")
    return {
        name: served.room.apply(neuron.on_neuron(name, path, strategy="ShardOnLoad", **ON_COMMON, **options))[0]
        for name, (options, _, _) in FAILING.items()
    }


def container(workload: Object) -> Object:
    """Of a Job or a Deployment."""
    found: Object = workload["spec"]["template"]["spec"]["containers"][0]
    return found


def environment(workload: Object) -> dict[str, str]:
    return {entry["name"]: entry["value"] for entry in container(workload)["env"] if "value" in entry}


# Answers.


@pytest.mark.parametrize("name", SERVED)
def test_its_answer_is_that_of_transformers(served: Served, name: str) -> None:
    assert completion(served.models[name], PROMPT, num_tokens=TOKENS) == served.expected()


# What is made of it.


def test_the_job_needs_no_device_and_the_deployment_asks_for_whole_ones(served: Served) -> None:
    model = served.models["kept"]
    job, deployment = model.prepare_jobs()[0], model.children("Deployment")[0]
    assert names.NEURON_RESOURCE not in str(container(job)["resources"])
    assert container(deployment)["resources"]["limits"][names.NEURON_RESOURCE] == "1"
    for workload in (job, deployment):
        spec = workload["spec"]["template"]["spec"]
        assert spec["nodeSelector"] == {names.INSTANCE_TYPE_LABEL: names.DEFAULT_INSTANCE_TYPE}
        assert names.NEURON_TAINT in {toleration.get("key") for toleration in spec["tolerations"]}


def test_the_environment_is_that_of_the_command(served: Served) -> None:
    model = served.models["kept"]
    job, serving = environment(model.prepare_jobs()[0]), environment(model.children("Deployment")[0])
    for variables in (job, serving):
        assert variables["NEURON_RT_VIRTUAL_CORE_SIZE"] == "2"
        assert variables["BASE_COMPILE_WORK_DIR"].startswith(names.SCRATCH_MOUNT)
        assert variables["NEURON_COMPILE_CACHE_URL"].startswith(names.SCRATCH_MOUNT)
    assert job["NEURON_PLATFORM_TARGET_OVERRIDE"] == "trn2"
    assert "NEURON_PLATFORM_TARGET_OVERRIDE" not in serving
    assert (serving["NEURON_RT_NUM_CORES"], serving["NEURON_RT_EXEC_TIMEOUT"]) == ("3", "600")


def test_the_job_writes_what_the_deployment_reads(served: Served) -> None:
    model = served.models["kept"]
    for workload, reads_only in ((model.prepare_jobs()[0], False), (model.children("Deployment")[0], True)):
        mounts = {mount["mountPath"]: mount for mount in container(workload)["volumeMounts"]}
        assert mounts[names.ARTIFACTS_MOUNT].get("readOnly", False) is reads_only
        assert mounts[names.SOURCE_MOUNT]["readOnly"] is True
        volumes = {volume["name"]: volume for volume in workload["spec"]["template"]["spec"]["volumes"]}
        assert "emptyDir" in volumes[mounts[names.SCRATCH_MOUNT]["name"]]
        claimed = volumes[mounts[names.ARTIFACTS_MOUNT]["name"]]["persistentVolumeClaim"]
        assert claimed["claimName"] == COMMON


def test_requests_come_from_the_plan_where_the_user_sets_none(served: Served) -> None:
    model = served.models["kept"]
    resources, sizing = container(model.children("Deployment")[0])["resources"], model.status.sizing
    assert sizing is not None
    assert sizing.scratch_bytes > 0
    assert resources["requests"]["memory"] == neuron.RESOURCES["requests"]["memory"], "the user's own"
    assert "ephemeral-storage" in resources["requests"]
    assert set(resources["limits"]) == {names.NEURON_RESOURCE}, "a limit too low kills"


def test_shared_memory_is_of_memory(served: Served) -> None:
    spec = served.models["vllm"].children("Deployment")[0]["spec"]["template"]["spec"]
    mounts = {
        mount["mountPath"]: mount["name"] for mount in container({"spec": {"template": {"spec": spec}}})["volumeMounts"]
    }
    volume = next(each for each in spec["volumes"] if each["name"] == mounts[names.SHARED_MEMORY_MOUNT])
    assert volume["emptyDir"]["medium"] == "Memory"
    assert volume["emptyDir"]["sizeLimit"]


# What the library was given.


def test_the_library_loads_a_view_of_this_start_and_warms_up_apart(served: Served) -> None:
    for name, from_files in (("kept", True), ("sliced", False), ("native-kept", True), ("native-sliced", False)):
        model = served.models[name]
        (load,) = neuron.recorded(model, "load")
        assert load["path"].startswith(f"{names.SCRATCH_MOUNT}/")
        assert (load["start_rank_id"], load["local_ranks_size"], load["skip_warmup"]) == (0, neuron.DEGREE, True)
        own = [call["from_files"] for call in neuron.recorded(model, "load_weights")]
        assert own == ([from_files] if name.startswith("native") else []), "our readers stand in its place"
        assert len(neuron.recorded(model, "warmup")) == 1


def test_every_way_hands_over_the_same_tensors(served: Served) -> None:
    kept = neuron.recorded(served.models["kept"], "initialize")[0]["shards"]
    assert len(kept) == neuron.DEGREE
    for name in ("sliced", "native-kept", "native-sliced", "busy"):
        assert neuron.recorded(served.models[name], "initialize")[-1]["shards"] == kept, name


# Status.


@pytest.mark.parametrize("name", SERVED)
def test_the_start_tells_what_devices_it_found(served: Served, name: str) -> None:
    start = served.starts[name]
    assert start.node_name == "trn2"
    assert start.devices is not None
    assert (start.devices.count, start.devices.cores, start.devices.logical_neuron_core_config) == (1, 4, 2)
    assert set(start.devices.versions) == neuron.SDK


@pytest.mark.parametrize("name", ["kept", "sliced", "vllm"])
def test_the_status_tells_what_a_start_needs(served: Served, name: str) -> None:
    sizing = served.models[name].status.sizing
    assert sizing is not None
    assert sizing.core_bytes == 24 << 30
    assert 0 < sizing.rank_bytes < sizing.core_bytes
    assert sizing.cache_bytes > 0
    assert sizing.host_memory_bytes > neuron.DEGREE * sizing.rank_bytes


def test_phases_say_where_the_time_went(served: Served) -> None:
    assert "DevicesAwaited" in phases(served.starts["busy"])
    for name in ("kept", "sliced", "vllm"):
        assert "WarmedUp" in phases(served.starts[name]), name
    assert [phase.stage.value for phase in served.starts["native-kept"].phases if phase.name == "Sharded"] == [
        "Prepare"
    ]
    assert [phase.stage.value for phase in served.starts["sliced"].phases if phase.name == "Sharded"] == ["Serve"]


def test_some_ranks_alone_are_prepared_and_not_served(served: Served) -> None:
    model = served.partial
    model.wait_for_condition(ConditionType.ARTIFACTS_READY, "True")
    model.wait_for_reason("Suspended")
    assert not model.children("Pod", names.COMPONENT_SERVE)
    files = {path.name for path in folder_of(served.room, model).rglob("*.safetensors")}
    assert files == {f"tp{rank}_sharded_checkpoint.safetensors" for rank in (1, 2)}


def folder_of(room: Room, model: Applied) -> Path:
    """On this machine, the artifacts."""
    name = model.status.artifacts.claim_name if model.status.artifacts else None
    bound = room.cluster.get("PersistentVolumeClaim", name or "", room.namespace)
    assert bound is not None
    volume = room.cluster.get("PersistentVolume", bound["spec"]["volumeName"])
    assert volume is not None
    return Path(volume["spec"]["local"]["path"])


def test_the_status_names_the_vllm_that_serves(served: Served) -> None:
    named = {name: artifacts.server for name, model in served.models.items() if (artifacts := model.status.artifacts)}
    vllm = named.pop("vllm")
    assert vllm == "vLLM 0.16.0 with its Neuron plugin 0.5.0, which runs NxD Inference"
    assert set(named.values()) == {None}


# Failures.


def test_a_vllm_for_other_devices_is_refused_before_anything_is_read(served: Served) -> None:
    condition = served.on_processors.wait_for_reason("ServerNotSupported")
    assert "vLLM 0.16.0 with its Neuron plugin 0.5.0" in condition.message
    assert "does not serve engine: CPU. Set spec.worker.image" in condition.message
    assert not served.on_processors.children("Deployment")


def test_a_compiler_that_fails_twice_is_final_and_quoted(served: Served) -> None:
    model = served.never_compiled
    condition = model.wait_for_reason("CompilerFailed")
    assert "An Internal Compiler Error has occurred" in condition.message
    assert "neuronx-cc failed with 70" in condition.message
    assert "[F134] neuronx-cc terminated abnormally" in condition.message
    logs = list(folder_of(served.room, model).glob("logs/compile-*.log"))
    assert len(logs) == 1
    assert logs[0].read_text().count("[F134]") == 2, "it was given a second try, and no third"
    assert not model.children("Deployment")


@pytest.mark.parametrize("name", FAILING)
def test_a_start_that_fails_says_why(failing: dict[str, Applied], name: str) -> None:
    _, reason, word = FAILING[name]
    model = failing[name]
    condition = model.wait_for_reason(reason)
    assert word in condition.message
    assert model.status.artifacts is not None
    assert model.status.artifacts.cache == "Hit"
    model.change(suspend=True)
    eventually(lambda: not model.serving_pods(), what=f"{name} to give its device back", instead=model.story)
