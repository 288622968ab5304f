"""How a request's sampling is done: compiled into the graph, given to the library with each batch, or outside of it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from neuronmodel_worker.engines.interface import Sampling, SamplingNotCompiled
from neuronmodel_worker.engines.nxdi.settings import sampling_fields

GREEDY = {"do_sample": False, "top_k": 1, "top_p": 1.0, "temperature": 1.0}
"""Greedy sampling for the library, which would divide by a temperature of 0."""
DEFAULT_GLOBAL_TOP_K = 256
"""The default in OnDeviceSamplingConfig."""


@dataclass(frozen=True)
class DeviceSampling:
    """The sampling of a graph; `fields` are those of OnDeviceSamplingConfig."""

    fields: Mapping[str, Any]

    @property
    def is_dynamic(self) -> bool:
        return bool(self.fields["dynamic"])

    @property
    def global_top_k(self) -> int:
        """How many of the likeliest tokens the graph considers."""
        return int(self.fields.get("global_topk") or DEFAULT_GLOBAL_TOP_K)

    def check(self, sampling: Sampling) -> None:
        """Raises SamplingNotCompiled for a sampling that the graph does not support."""
        if self.is_dynamic:
            if sampling.top_k is not None and sampling.top_k > self.global_top_k:
                raise SamplingNotCompiled(
                    f"top_k is {sampling.top_k}, and this model's graph considers the {self.global_top_k} likeliest "
                    "tokens. Ask for fewer."
                )
            return
        if self.values(sampling) != self._compiled():
            raise SamplingNotCompiled(
                f"This model was compiled to sample in one way alone: {self._description()}. Leave temperature, top_p "
                "and top_k out, or ask for the same."
            )

    def values(self, sampling: Sampling) -> dict[str, Any]:
        """The fields of transformers' GenerationConfig. With a `top_k` of 0 or -1 the library would choose any
        token."""
        if sampling.temperature == 0 or sampling.top_k == 1:
            return dict(GREEDY)
        top_k = min(sampling.top_k or self.global_top_k, self.global_top_k)
        return {"do_sample": True, "top_k": top_k, "top_p": sampling.top_p, "temperature": sampling.temperature}

    def _compiled(self) -> dict[str, Any]:
        given = self.fields
        if not given["do_sample"]:
            return dict(GREEDY)
        top_k = int(given["top_k"])
        compiled = Sampling(float(given["temperature"]), float(given["top_p"]), top_k if top_k > 0 else None)
        return self.values(compiled)

    def _description(self) -> str:
        if self._compiled() == GREEDY:
            return "it takes the likeliest token (temperature 0)"
        compiled = self._compiled()
        return f"temperature {compiled['temperature']}, top_p {compiled['top_p']}, top_k {compiled['top_k']}"


def on_device(fields: Mapping[str, Any]) -> DeviceSampling | None:
    """The sampling of a graph; None where the graph returns logits."""
    sampling = fields.get("on_device_sampling_config")
    return None if sampling is None else DeviceSampling(sampling_fields(sampling))
