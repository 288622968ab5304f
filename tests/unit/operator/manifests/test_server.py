"""The vLLM that an image has, as prepare found it: in status, and in what the Deployment is made from."""

from typing import Any

import pytest

from neuronmodel_api.report import InstalledServer, ServerKind
from tests.builders import neuron_model
from tests.unit.operator.simulated import Cluster, Run

BASE = neuron_model("big").on_neuron().with_degree(64).with_artifacts_claim("store").with_serving(server="VLLM")
WITH_NXD_INFERENCE = InstalledServer(kind=ServerKind.NXD_INFERENCE, version="0.5.0", vllm_version="0.16.0")
VLLM_NEURON = InstalledServer(kind=ServerKind.VLLM_NEURON, version="0.24.0.1.1.0", vllm_version="0.24.0")
OF_NEURON = ("NEURON_RT_NUM_CORES", "NEURON_VISIBLE_DEVICES", "NEURON_RT_VISIBLE_CORES")


def served_by(server: InstalledServer | None, degree: int = 64) -> Cluster:
    cluster = Cluster.of(BASE.with_degree(degree).build(), ("models", "store"))
    cluster.prepare = lambda config: Run(server=server)
    cluster.run_until_ready()
    return cluster


def cores(template: Any) -> dict[str, str]:
    items = template["spec"]["containers"][0]["env"]
    return {item["name"]: item["value"] for item in items if item["name"] in OF_NEURON}


@pytest.mark.parametrize("server", [None, WITH_NXD_INFERENCE, InstalledServer(kind="Another", version="1")])
def test_what_runs_nxd_inference_is_given_a_number_of_cores(server: InstalledServer | None) -> None:
    (pod,) = served_by(server).serving
    assert cores(pod) == {"NEURON_RT_NUM_CORES": "64"}


@pytest.mark.parametrize(("degree", "devices"), [(64, "0-63"), (1, "0")])
def test_vllm_neuron_is_given_names_of_cores_and_nothing_of_the_runtime_s(degree: int, devices: str) -> None:
    cluster = served_by(VLLM_NEURON, degree)
    (pod,) = cluster.serving
    assert cores(pod) == {"NEURON_VISIBLE_DEVICES": devices}
    (job,) = cluster.live_jobs
    assert cores(job["spec"]["template"]) == {}, "prepare finds out first"


def test_status_names_it() -> None:
    for server, says in (
        (None, None),
        (WITH_NXD_INFERENCE, "vLLM 0.16.0 with its Neuron plugin 0.5.0, which runs NxD Inference"),
        (VLLM_NEURON, "vLLM Neuron 0.24.0.1.1.0 with vLLM 0.24.0"),
        (InstalledServer(kind=ServerKind.VLLM, version="0.29.0+cpu"), "vLLM 0.29.0+cpu without a plugin for Neuron"),
        (InstalledServer(kind="Another", version="1"), "vLLM of an unknown version with a Neuron plugin 1"),
    ):
        found = served_by(server).status.artifacts
        assert found
        assert found.server == says
