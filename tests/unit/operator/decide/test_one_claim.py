"""One claim for several of the checkpoint, the artifacts and scratch: kubelets mount no claim twice in a pod."""

import pytest

from tests.builders import neuron_model
from tests.unit.operator.manifests.test_golden import manifests

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


@pytest.mark.parametrize(
    ("claim", "own", "given"),
    [
        ("models", "source", {"persistentVolumeClaim": {"claimName": "models", "readOnly": True}}),
        ("store", "artifacts", WRITABLE),
        ("nvme", "scratch", {"persistentVolumeClaim": {"claimName": "nvme"}}),
    ],
)
def test_a_volume_of_the_users_on_a_claim_that_is_mounted_already_is_that_one(
    claim: str, own: str, given: dict[str, object]
) -> None:
    """Adapters next to the checkpoint, for instance. A checkpoint is only read, whatever the user's volume says."""
    builder = neuron_model("smol").on_cpu().with_degree(3).with_source_claim("models", "llama")
    builder = builder.with_artifacts_claim("store").with_worker(
        volumes=[{"name": "mine", "persistentVolumeClaim": {"claimName": claim}}],
        volumeMounts=[{"name": "mine", "mountPath": "/mine", "subPath": "adapters"}],
    )
    builder = builder.with_field("spec.scratch.persistentVolumeClaim", {"claimName": "nvme"})
    for each in [made for made in manifests(builder, "models", "nvme") if made["kind"] in ("Job", "Deployment")]:
        pod = each["spec"]["template"]["spec"]
        assert {volume["name"] for volume in pod["volumes"]} == {"source", "artifacts", "scratch"}
        assert {"name": own, **given} in pod["volumes"]
        assert {"name": own, "mountPath": "/mine", "subPath": "adapters"} in pod["containers"][0]["volumeMounts"]


def test_volumes_of_the_users_on_one_claim_are_one_that_may_be_written() -> None:
    names = ("read", "written", "other")
    volumes = [
        {"name": "read", "persistentVolumeClaim": {"claimName": "data", "readOnly": True}},
        {"name": "written", "persistentVolumeClaim": {"claimName": "data"}},
        {"name": "other", "emptyDir": {}},
    ]
    mounts = [{"name": name, "mountPath": f"/{name}"} for name in names]
    builder = neuron_model("smol").on_cpu().with_artifacts_claim("store")
    builder = builder.with_worker(volumes=volumes, volumeMounts=mounts)
    (deployment,) = [made for made in manifests(builder, "models", "data") if made["kind"] == "Deployment"]
    pod = deployment["spec"]["template"]["spec"]
    assert [each for each in pod["volumes"] if each["name"] in names] == volumes[1:]
    assert [each for each in pod["containers"][0]["volumeMounts"] if each["mountPath"] in ("/read", "/written")] == [
        {"name": "written", "mountPath": "/read", "readOnly": True},
        {"name": "written", "mountPath": "/written"},
    ]
