"""The operator of the release that end-to-end tests leave on the local cluster."""

import json
from collections.abc import Iterator
from contextlib import contextmanager

from hack.cluster.layout import LAYOUT
from hack.cluster.locks import one_at_a_time
from tests.cluster.conftest import TESTS, Kubectl, wait_until
from tests.waiting import PATIENCE_SECONDS

OF_RELEASE = ("--namespace=neuronmodel-system", "--selector=app.kubernetes.io/instance=neuronmodel")
DEPLOYMENT = ("deployment/neuronmodel", "--namespace=neuronmodel-system")


@contextmanager
def installed_operator_at_rest() -> Iterator[None]:
    """It would see to the tests' NeuronModels as well, before the one that is tested does, or amid what is looked
    at."""
    kubectl = Kubectl(LAYOUT.kubeconfig)
    with one_at_a_time(TESTS):
        if not kubectl("get", *DEPLOYMENT, "--ignore-not-found", "--output=name"):
            yield
            return
        scale(kubectl, 0)
        try:
            wait_until(lambda: not kubectl("get", "pods", *OF_RELEASE, "--output=name"), "the operator to rest")
            yield
        finally:
            scale(kubectl, 1)
            kubectl("rollout", "status", *DEPLOYMENT, f"--timeout={PATIENCE_SECONDS:.0f}s")


def scale(kubectl: Kubectl, replicas: int) -> None:
    """As Helm does it, which would refuse to take the field from somebody else."""
    change = json.dumps({"spec": {"replicas": replicas}})
    kubectl("patch", *DEPLOYMENT, "--type=merge", "--field-manager=helm", f"--patch={change}")
