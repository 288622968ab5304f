"""The Service of the API; the admin port is not exposed by any Service."""

from neuronmodel_api import names
from neuronmodel_operator.manifests import metadata
from neuronmodel_operator.state.observed import ObservedModel
from neuronmodel_operator.state.plan import Manifest


def service(model: ObservedModel) -> Manifest:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata.object_meta(model, names.service(model.name), names.COMPONENT_SERVE),
        "spec": {
            "type": "ClusterIP",
            "selector": metadata.selector(model, names.COMPONENT_SERVE),
            "ports": [
                {
                    "name": names.SERVING_PORT_NAME,
                    "port": model.spec.serving.port,
                    "targetPort": names.SERVING_PORT_NAME,
                    "protocol": "TCP",
                }
            ],
        },
    }


def endpoint(model: ObservedModel) -> str:
    return f"http://{names.service(model.name)}.{model.namespace}.svc:{model.spec.serving.port}/v1"
