"""The Deployment of the workers, and its pod template."""

import json
from dataclasses import dataclass, replace
from typing import Any

from neuronmodel_api import names
from neuronmodel_api.config import WorkerConfig
from neuronmodel_api.spec import UpdateStrategy
from neuronmodel_operator.manifests import metadata
from neuronmodel_operator.manifests.hashes import digest
from neuronmodel_operator.manifests.pod import WorkerPod, pod_template
from neuronmodel_operator.state.annotations import RENDERED
from neuronmodel_operator.state.observed import Object, ObservedModel
from neuronmodel_operator.state.plan import Manifest

KEPT_REVISIONS = 2


@dataclass(frozen=True)
class Template:
    """A pod template, and its hash, which reports carry."""

    manifest: Manifest
    hash: str

    @property
    def image(self) -> str:
        return str(self._container["image"])

    @property
    def start_timeout_seconds(self) -> int:
        """The start timeout in the worker's configuration, which another version may have written with fields that this
        one can't read."""
        values = (item["value"] for item in self._container["env"] if item["name"] == names.ENV_CONFIG)
        usual = WorkerConfig.model_fields["start_timeout_seconds"].default
        return int(json.loads(next(values, "")).get("startTimeoutSeconds", usual))

    @property
    def _container(self) -> Manifest:
        container: Manifest = self.manifest["spec"]["containers"][0]
        return container


def render(pod: WorkerPod) -> Template:
    """Renders a pod template. The hash is computed without itself and then inserted where it is carried."""
    found = digest(pod_template(pod))
    annotated = dict(pod.annotations) | {names.ANNOTATION_TEMPLATE_HASH: found}
    named = replace(pod, annotations=annotated, config=pod.config.model_copy(update={"spec_hash": found}))
    return Template(pod_template(named), found)


def stored(deployment: Object) -> Template | None:
    """Returns the template that the operator last applied; None if somebody removed or corrupted it."""
    annotations = deployment["metadata"].get("annotations") or {}
    try:
        manifest: Any = json.loads(annotations[RENDERED])
        found = manifest["metadata"]["annotations"][names.ANNOTATION_TEMPLATE_HASH]
        template = Template(manifest, found)
        return template if template.image and template.start_timeout_seconds else None
    except (KeyError, TypeError, IndexError, ValueError, AttributeError):
        return None


def deployment(model: ObservedModel, template: Template, replicas: int, annotations: dict[str, str]) -> Manifest:
    carried = annotations | {
        names.ANNOTATION_TEMPLATE_HASH: template.hash,
        RENDERED: json.dumps(template.manifest, sort_keys=True, separators=(",", ":")),
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": metadata.object_meta(model, names.deployment(model.name), names.COMPONENT_SERVE, carried),
        "spec": {
            "replicas": replicas,
            "revisionHistoryLimit": KEPT_REVISIONS,
            "selector": {"matchLabels": metadata.selector(model, names.COMPONENT_SERVE)},
            "strategy": _strategy(model),
            "template": template.manifest,
        },
    }


def _strategy(model: ObservedModel) -> Manifest:
    serving = model.spec.serving
    default = UpdateStrategy.RECREATE if serving.replicas <= 1 else UpdateStrategy.ROLLING
    if (serving.update_strategy or default) is UpdateStrategy.RECREATE:
        return {"type": "Recreate"}
    # Devices are bound to nodes: a surge pod would find none.
    return {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1}}
