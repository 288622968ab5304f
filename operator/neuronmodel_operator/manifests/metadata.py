"""Labels, annotations and owners of children."""

from typing import Any

from neuronmodel_api import names
from neuronmodel_operator.state.observed import ObservedModel
from neuronmodel_operator.state.plan import Manifest


def labels(model: ObservedModel, component: str) -> dict[str, str]:
    return selector(model, component) | {
        names.LABEL_MODEL: model.name,
        names.LABEL_MANAGED_BY: names.MANAGED_BY,
        "app.kubernetes.io/name": "neuronmodel",
        "app.kubernetes.io/component": component,
        "app.kubernetes.io/instance": model.name,
    }


def selector(model: ObservedModel, component: str) -> dict[str, str]:
    """Returns the selector. It includes the UID, as a new NeuronModel of the same name has pods of its own."""
    return {names.LABEL_UID: model.uid, names.LABEL_COMPONENT: component}


def unowned_meta(
    model: ObservedModel, name: str, component: str, annotations: dict[str, str] | None = None
) -> Manifest:
    """Returns the metadata of a child that only the operator removes."""
    meta: dict[str, Any] = {"name": name, "namespace": model.namespace, "labels": labels(model, component)}
    return meta | ({"annotations": annotations} if annotations else {})


def object_meta(model: ObservedModel, name: str, component: str, annotations: dict[str, str] | None = None) -> Manifest:
    """Returns the metadata of a child that garbage collection removes with the NeuronModel."""
    return unowned_meta(model, name, component, annotations) | {
        "ownerReferences": [
            {
                "apiVersion": names.API_VERSION,
                "kind": names.KIND,
                "name": model.name,
                "uid": model.uid,
                "controller": True,
                "blockOwnerDeletion": True,
            }
        ],
    }
