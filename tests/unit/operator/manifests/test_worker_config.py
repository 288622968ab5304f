"""The configuration of a pod reaches its worker as it was written: the kubelet expands what looks like a variable."""

import pytest

from tests.builders import neuron_model
from tests.unit.operator.simulated import Cluster, config_of


@pytest.mark.parametrize("text", ["a$b", "a$$b", "$(HOME)/a", "$(KUBERNETES_SERVICE_HOST)", "$$(HOME)", "a$"])
def test_dollars_stay_what_they_are(text: str) -> None:
    builder = neuron_model("smol").on_cpu().with_source_claim("models", text).with_field("spec.model.servedName", text)
    cluster = Cluster.of(builder.with_artifacts_claim("store").build(), ("models", "store"))
    cluster.run_until_ready()
    (job,), (pod,) = cluster.live_jobs, cluster.serving
    for template in (job["spec"]["template"], pod):
        assert config_of(template).source_path == f"/source/{text}"
        assert config_of(template).served_name == text
