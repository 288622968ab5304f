"""What an earlier definition took goes on after an update of the definition: a name that came to be the operator's own
is refused in new objects, and keeps nobody from changing an old one."""

import json
from collections.abc import Iterator
from typing import Final

import pytest
from kubernetes import client
from kubernetes.client.exceptions import ApiException

from neuronmodel_api import names
from tests import crd
from tests.builders import NeuronModelBuilder, neuron_model
from tests.cluster.conftest import Object, delete_definition, wait_until

GROUP: Final = f"former.{names.GROUP}"
NAME: Final = f"{names.PLURAL}.{GROUP}"
OLD: Final = (
    neuron_model("smol")
    .with_flag("model_path", "/models")
    .with_worker(
        volumes=[{"name": "shared-memory", "emptyDir": {"medium": "Memory"}}],
        volumeMounts=[{"name": "shared-memory", "mountPath": "/dev/shm"}],
    )
)


def definition(*, with_rules: bool) -> Object:
    document = crd.definition()
    document["metadata"]["name"], document["spec"]["group"] = NAME, GROUP
    for _, node in crd.walk(crd.schema_of(document)):
        if not with_rules:
            node.pop("x-kubernetes-validations", None)
    return document


@pytest.fixture
def definitions(api: client.ApiClient) -> Iterator[client.ApiextensionsV1Api]:
    """With the former one served."""
    found = client.ApiextensionsV1Api(api)
    delete_definition(found, NAME)
    found.create_custom_resource_definition(definition(with_rules=False))
    yield found
    found.delete_custom_resource_definition(NAME)


def test_an_object_of_a_former_definition_can_be_changed_under_the_new_one(
    api: client.ApiClient, definitions: client.ApiextensionsV1Api, namespace: str
) -> None:
    objects = client.CustomObjectsApi(api)
    where = (GROUP, names.VERSION, namespace, names.PLURAL)

    def create(model: NeuronModelBuilder, **options: str) -> bool:
        """False: refused, or not served yet."""
        body = model.with_field("apiVersion", f"{GROUP}/{names.VERSION}").build()
        try:
            objects.create_namespaced_custom_object(*where, body, **options)
        except ApiException as error:
            if error.status not in (404, 422):
                raise
            return False
        return True

    wait_until(lambda: create(OLD), "the former definition to be served")
    document = definition(with_rules=True)
    document["metadata"]["resourceVersion"] = definitions.read_custom_resource_definition(
        NAME
    ).metadata.resource_version
    definitions.replace_custom_resource_definition(NAME, document)
    wait_until(lambda: not create(OLD.named("another"), dry_run="All"), "the new definition to be enforced")
    changed = objects.patch_namespaced_custom_object(*where, "smol", {"spec": {"serving": {"replicas": 2}}})
    assert changed["spec"]["serving"]["replicas"] == 2
    patched = objects.patch_namespaced_custom_object_status(*where, "smol", {"status": {"phase": "Ready"}})
    assert patched["status"] == {"phase": "Ready"}, json.dumps(patched)
    with pytest.raises(ApiException) as refused:
        objects.patch_namespaced_custom_object(
            *where, "smol", {"spec": {"sharding": {"weights": "Native", "seal": "Behind"}}}
        )
    assert "choose seal Before, or weights Streamed" in str(refused.value.body)
