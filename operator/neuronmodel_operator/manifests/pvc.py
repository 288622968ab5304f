"""The claim for artifacts, made from `spec.artifacts.template`."""

from typing import Any

from neuronmodel_api import names
from neuronmodel_api.spec import ClaimTemplate
from neuronmodel_operator.manifests.quantities import largest
from neuronmodel_operator.state.observed import Object, ObservedModel
from neuronmodel_operator.state.plan import Manifest


def artifacts_claim(model: ObservedModel, template: ClaimTemplate, existing: Object | None) -> Manifest:
    """Returns the claim. It has no ownerReference (garbage collection would not check who else uses it) and no UID, so
    that a later NeuronModel of the name takes it over. Immutable fields are kept as they exist, and the size only
    grows."""
    found = existing.get("spec", {}) if existing else {}
    spec: dict[str, Any] = {
        "accessModes": list(found.get("accessModes") or template.access_modes),
        "resources": {"requests": {"storage": _size(template, found)}},
    }
    storage_class = found.get("storageClassName", template.storage_class_name)
    if storage_class is not None:
        spec["storageClassName"] = storage_class
    labels = {names.LABEL_MODEL: model.name, names.LABEL_MANAGED_BY: names.MANAGED_BY}
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": names.templated_claim(model.name), "namespace": model.namespace, "labels": labels},
        "spec": spec,
    }


def _size(template: ClaimTemplate, found: dict[str, Any]) -> str:
    requested = found.get("resources", {}).get("requests", {}).get("storage")
    return largest(template.size, requested) if requested else template.size
