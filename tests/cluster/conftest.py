"""A real API server, and the definition on it under a group of its own.

An operator that runs in the same cluster watches neuronmodel.dev: what these tests make is none of its business, and a
release of the chart finds no definition that is not its own.
"""

import json
import os
import subprocess
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest
from kubernetes import client, config
from kubernetes.client.exceptions import ApiException

from hack.cluster.layout import LAYOUT
from neuronmodel_api import names
from tests import crd
from tests.builders import NeuronModelBuilder
from tests.waiting import PATIENCE_SECONDS, TEST_SECONDS, until

TESTS: Final = "tests"
"""What one run at a time does."""
GROUP: Final = f"rules.{names.GROUP}"
API_VERSION: Final = f"{GROUP}/{names.VERSION}"

Object = dict[str, Any]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.timeout(TEST_SECONDS))


@pytest.fixture(scope="session")
def kubeconfig() -> Path:
    """Of KUBECONFIG, or of the cluster that `make up` starts."""
    path = Path(os.environ.get("KUBECONFIG") or LAYOUT.kubeconfig)
    if path.exists():
        return path
    message = f"there is no cluster: {path} does not exist; `make up` starts one, or KUBECONFIG names one"
    if os.environ.get("CI") == "true":
        pytest.fail(message)
    pytest.skip(message)


@pytest.fixture(scope="session")
def api(kubeconfig: Path) -> client.ApiClient:
    return config.new_client_from_config(config_file=str(kubeconfig))


@dataclass(frozen=True)
class Kubectl:
    """kubectl and helm of the local cluster, or those on the PATH where KUBECONFIG names another."""

    kubeconfig: Path

    def __call__(self, *arguments: str, stdin: str | None = None) -> str:
        return self._run("kubectl", *arguments, stdin=stdin)

    def helm(self, *arguments: str) -> str:
        return self._run("helm", *arguments)

    def _run(self, command: str, *arguments: str, stdin: str | None = None) -> str:
        done = self.attempt(command, *arguments, stdin=stdin)
        assert done.returncode == 0, f"{command} {' '.join(arguments)}: {done.stderr.strip()}"
        return done.stdout

    def attempt(self, command: str, *arguments: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
        own = LAYOUT.binaries / command
        return subprocess.run(
            [str(own) if own.exists() else command, f"--kubeconfig={self.kubeconfig}", *arguments],
            input=stdin,
            capture_output=True,
            text=True,
            timeout=PATIENCE_SECONDS,
            check=False,
        )


@pytest.fixture(scope="session")
def kubectl(kubeconfig: Path) -> Kubectl:
    return Kubectl(kubeconfig)


# As tests/e2e installs the chart: a release of these names takes over what it finds with these marks.
RELEASE: Final = {"meta.helm.sh/release-name": "neuronmodel", "meta.helm.sh/release-namespace": "neuronmodel-system"}


@pytest.fixture(scope="session", autouse=True)
def served_definition(kubeconfig: Path | str) -> None:
    serve_definition(Path(kubeconfig))


def serve_definition(kubeconfig: Path) -> None:
    """The CRD of crds/ under its own name, for tests that run the operator.

    It stays: NeuronModels of others would go with it. So it is made as Helm makes it, by the same field manager.
    """
    document = crd.definition()
    document["metadata"]["annotations"] |= RELEASE
    document["metadata"]["labels"] = {"app.kubernetes.io/managed-by": "Helm"}
    kubectl = Kubectl(kubeconfig)
    kubectl("apply", "--server-side", "--force-conflicts", "--field-manager=helm", "-f-", stdin=json.dumps(document))
    wait_until(lambda: _is_established(kubectl), "the API server to establish the definition")


def _is_established(kubectl: Kubectl) -> bool:
    """Neither `kubectl wait` nor a jsonpath filter bears a definition that is so new that it has no conditions yet."""
    found = json.loads(kubectl("get", "crd", f"{names.PLURAL}.{names.GROUP}", "-o", "json"))
    conditions = found.get("status", {}).get("conditions") or []
    return any(entry["type"] == "Established" and entry["status"] == "True" for entry in conditions)


@pytest.fixture(scope="session")
def definition(api: client.ApiClient) -> Iterator[Object]:
    """The CRD of crds/, served under GROUP."""
    document = crd.definition()
    document["metadata"]["name"] = f"{names.PLURAL}.{GROUP}"
    document["spec"]["group"] = GROUP
    definitions = client.ApiextensionsV1Api(api)
    delete_definition(definitions, document["metadata"]["name"])
    definitions.create_custom_resource_definition(document, field_validation="Strict")
    wait_until(lambda: _is_served(api), "the API server to serve the definition")
    yield document
    delete_definition(definitions, document["metadata"]["name"])


def delete_definition(definitions: client.ApiextensionsV1Api, name: str) -> None:
    """Also that of a run which was interrupted."""

    def gone() -> bool:
        try:
            definitions.delete_custom_resource_definition(name)
        except ApiException as error:
            return bool(error.status == 404)
        return False

    wait_until(gone, f"{name} to go")


def _is_served(api: client.ApiClient) -> bool:
    try:
        client.CustomObjectsApi(api).list_cluster_custom_object(GROUP, names.VERSION, names.PLURAL)
    except ApiException:
        return False
    return True


@pytest.fixture(scope="session")
def namespace(api: client.ApiClient) -> Iterator[str]:
    name = f"rules-{uuid.uuid4().hex[:8]}"
    core = client.CoreV1Api(api)
    core.create_namespace({"metadata": {"name": name}})
    yield name
    core.delete_namespace(name)


@dataclass(frozen=True)
class Models:
    """NeuronModels on the API server; methods raise ApiException for what it refuses."""

    api: client.ApiClient
    namespace: str

    def check(self, model: NeuronModelBuilder) -> Object:
        """What would be stored."""
        return self._create(model, dry_run="All")

    def create(self, model: NeuronModelBuilder) -> Object:
        return self._create(model)

    def check_update(self, model: NeuronModelBuilder) -> Object:
        return self._update(model, dry_run="All")

    def update(self, model: NeuronModelBuilder) -> Object:
        return self._update(model)

    def get(self, name: str) -> Object:
        found: Object = self._objects.get_namespaced_custom_object(
            GROUP, names.VERSION, self.namespace, names.PLURAL, name
        )
        return found

    def delete(self, name: str) -> None:
        self._objects.delete_namespaced_custom_object(GROUP, names.VERSION, self.namespace, names.PLURAL, name)

    def write_status(self, name: str, status: Object) -> Object:
        body = {"status": status}
        written: Object = self._objects.patch_namespaced_custom_object_status(
            GROUP, names.VERSION, self.namespace, names.PLURAL, name, body
        )
        return written

    @property
    def _objects(self) -> client.CustomObjectsApi:
        return client.CustomObjectsApi(self.api)

    def _create(self, model: NeuronModelBuilder, **options: str) -> Object:
        body = model.with_field("apiVersion", API_VERSION).build()
        made: Object = self._objects.create_namespaced_custom_object(
            GROUP, names.VERSION, self.namespace, names.PLURAL, body, field_validation="Strict", **options
        )
        return made

    def _update(self, model: NeuronModelBuilder, **options: str) -> Object:
        body = model.with_field("apiVersion", API_VERSION).build()
        name = body["metadata"]["name"]
        body["metadata"]["resourceVersion"] = self.get(name)["metadata"]["resourceVersion"]
        made: Object = self._objects.replace_namespaced_custom_object(
            GROUP, names.VERSION, self.namespace, names.PLURAL, name, body, field_validation="Strict", **options
        )
        return made


@pytest.fixture
def models(api: client.ApiClient, definition: Object, namespace: str) -> Iterator[Models]:
    yield Models(api, namespace)
    client.CustomObjectsApi(api).delete_collection_namespaced_custom_object(
        GROUP, names.VERSION, namespace, names.PLURAL
    )


def wait_until(reached: Callable[[], bool], what: str) -> None:
    until(reached, what, poll=0.1)
