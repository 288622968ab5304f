"""One claim for several of the checkpoint, the artifacts and scratch: kubelets mount no claim twice in a pod."""

import pytest

from tests.builders import neuron_model
from tests.unit.operator.test_golden_manifests import manifests

WRITABLE = {"persistentVolumeClaim": {"claimName": "store"}}


@pytest.mark.parametrize(
    ("source", "artifacts", "scratch", "volumes"),
    [
        ("store", "store", "other", {"artifacts", "scratch"}),
        ("models", "store", "store", {"artifacts", "source"}),
        ("store", "store", "store", {"artifacts"}),
        ("store", "other", "store", {"artifacts", "scratch"}),
    ],
)
def test_a_claim_is_one_volume_of_a_pod(source: str, artifacts: str, scratch: str, volumes: set[str]) -> None:
    builder = neuron_model("smol").on_cpu().with_degree(3).with_source_claim(source, "llama")
    builder = builder.with_artifacts_claim(artifacts).with_field(
        "spec.scratch.persistentVolumeClaim", {"claimName": scratch}
    )
    made = [each for each in manifests(builder, "models", "other") if each["kind"] in ("Job", "Deployment")]
    assert len(made) == 2
    for each in made:
        pod = each["spec"]["template"]["spec"]
        assert {volume["name"] for volume in pod["volumes"]} == volumes
        shared = next(volume for volume in pod["volumes"] if volume["persistentVolumeClaim"]["claimName"] == "store")
        assert shared == {"name": shared["name"], **WRITABLE}
        mounts = {mount["mountPath"]: mount for mount in pod["containers"][0]["volumeMounts"]}
        assert set(mounts) == {"/source", "/artifacts", "/scratch"}
        assert {mount["name"] for mount in mounts.values()} == volumes
        assert mounts["/source"]["readOnly"]
        assert "readOnly" not in mounts["/scratch"]
