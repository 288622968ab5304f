"""NeuronModels for tests, built fluently: `neuron_model("smol").on_cpu().with_field("spec.suspend", True).build()`."""

import copy
from dataclasses import dataclass, field
from typing import Any

from neuronmodel_api import names

Object = dict[str, Any]


@dataclass(frozen=True)
class NeuronModelBuilder:
    """Every method gives a new builder; what a test does not say stays at the smallest NeuronModel that is accepted."""

    content: Object = field(repr=False)

    def named(self, name: str) -> "NeuronModelBuilder":
        return self.with_field("metadata.name", name)

    def in_namespace(self, namespace: str) -> "NeuronModelBuilder":
        return self.with_field("metadata.namespace", namespace)

    def annotated(self, key: str, value: str) -> "NeuronModelBuilder":
        annotations = self.content["metadata"].get("annotations", {})
        return self.with_field("metadata.annotations", {**annotations, key: value})

    def on_cpu(self) -> "NeuronModelBuilder":
        return self.with_field("spec.engine", "CPU")

    def on_neuron(self) -> "NeuronModelBuilder":
        return self.with_field("spec.engine", "Neuron")

    def with_degree(self, degree: int) -> "NeuronModelBuilder":
        return self.with_field("spec.parallelism.tensorParallelDegree", degree)

    def with_strategy(self, strategy: str) -> "NeuronModelBuilder":
        return self.with_field("spec.sharding.strategy", strategy)

    def with_seal(self, seal: str) -> "NeuronModelBuilder":
        return self.with_field("spec.sharding.seal", seal)

    def with_weights(self, weights: str) -> "NeuronModelBuilder":
        return self.with_field("spec.sharding.weights", weights)

    def with_source_claim(self, claim: str, path: str = "") -> "NeuronModelBuilder":
        member = {"claimName": claim, **({"path": path} if path else {})}
        return self.with_field("spec.model.source", {"persistentVolumeClaim": member})

    def with_source_host_path(self, path: str) -> "NeuronModelBuilder":
        return self.with_field("spec.model.source", {"hostPath": {"path": path}})

    def with_source_repository(self, repository: str, **fields: Any) -> "NeuronModelBuilder":
        return self.with_field("spec.model.source", {"huggingFace": {"repository": repository, **fields}})

    def with_source_bucket(self, uri: str, **fields: Any) -> "NeuronModelBuilder":
        return self.with_field("spec.model.source", {"s3": {"uri": uri, **fields}})

    def with_artifacts_claim(self, claim: str) -> "NeuronModelBuilder":
        return self.without("spec.artifacts.template").with_field(
            "spec.artifacts.persistentVolumeClaim", {"claimName": claim}
        )

    def with_artifacts_template(self, size: str, **fields: Any) -> "NeuronModelBuilder":
        return self.without("spec.artifacts.persistentVolumeClaim").with_field(
            "spec.artifacts.template", {"size": size, **fields}
        )

    def with_retention(self, retention: str) -> "NeuronModelBuilder":
        return self.with_field("spec.artifacts.retention", retention)

    def with_flag(self, name: str, value: Any) -> "NeuronModelBuilder":
        """A field of NxD Inference's NeuronConfig that the spec has no field for."""
        flags = self.content["spec"].get("compile", {}).get("extra", [])
        return self.with_field("spec.compile.extra", [*flags, {"name": name, "value": value}])

    def with_compile(self, **fields: Any) -> "NeuronModelBuilder":
        return self._with_fields("spec.compile", fields)

    def with_worker(self, **fields: Any) -> "NeuronModelBuilder":
        return self._with_fields("spec.worker", fields)

    def with_serving(self, **fields: Any) -> "NeuronModelBuilder":
        return self._with_fields("spec.serving", fields)

    def suspended(self) -> "NeuronModelBuilder":
        return self.with_field("spec.suspend", True)

    def with_field(self, path: str, value: Any) -> "NeuronModelBuilder":
        """Any field, by its dotted path; what is missing on the way to it is made."""
        content = copy.deepcopy(self.content)
        *parents, last = path.split(".")
        _descend(content, parents)[last] = value
        return NeuronModelBuilder(content)

    def without(self, path: str) -> "NeuronModelBuilder":
        content = copy.deepcopy(self.content)
        *parents, last = path.split(".")
        _descend(content, parents).pop(last, None)
        return NeuronModelBuilder(content)

    def build(self) -> Object:
        return copy.deepcopy(self.content)

    def _with_fields(self, path: str, fields: Object) -> "NeuronModelBuilder":
        builder = self
        for name, value in fields.items():
            builder = builder.with_field(f"{path}.{name}", value)
        return builder


def neuron_model(name: str) -> NeuronModelBuilder:
    return NeuronModelBuilder(
        {
            "apiVersion": names.API_VERSION,
            "kind": names.KIND,
            "metadata": {"name": name},
            "spec": {
                "model": {"source": {"persistentVolumeClaim": {"claimName": "models"}}},
                "parallelism": {"tensorParallelDegree": 4},
                "artifacts": {"template": {"size": "10Gi"}},
            },
        }
    )


def _descend(content: Object, path: list[str]) -> Object:
    for name in path:
        content = content.setdefault(name, {})
    return content
