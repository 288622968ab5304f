"""How requests' sampling reaches the library: compiled into the graph, given to it with each batch, or done here."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from neuronmodel_worker.engines.interface import Sampling, SamplingNotCompiled
from neuronmodel_worker.engines.nxdi.settings import sampling_fields

GREEDY = {"do_sample": False, "top_k": 1, "top_p": 1.0, "temperature": 1.0}
"""For the library a temperature of 0 is one that it divides by."""
DEFAULT_GLOBAL_TOP_K = 256
"""OnDeviceSamplingConfig's."""


@dataclass(frozen=True)
class OnDevice:
    """`fields` are OnDeviceSamplingConfig's."""

    fields: Mapping[str, Any]

    @property
    def is_dynamic(self) -> bool:
        return bool(self.fields["dynamic"])

    @property
    def global_top_k(self) -> int:
        """The likeliest tokens that the graph considers at all."""
        return int(self.fields.get("global_topk") or DEFAULT_GLOBAL_TOP_K)

    def check(self, sampling: Sampling) -> None:
        """Raises SamplingNotCompiled."""
        if self.is_dynamic:
            if sampling.top_k is not None and sampling.top_k > self.global_top_k:
                raise SamplingNotCompiled(
                    f"top_k is {sampling.top_k}, and this model's graph considers the {self.global_top_k} likeliest "
                    "tokens. Ask for fewer."
                )
            return
        if self.values(sampling) != self._compiled():
            raise SamplingNotCompiled(
                f"This model was compiled to sample in one way alone: {self._told()}. Leave temperature, top_p and "
                "top_k out, or ask for the same."
            )

    def values(self, sampling: Sampling) -> dict[str, Any]:
        """What transformers' GenerationConfig is to say. To the library a `top_k` of 0 or -1 is a token by chance."""
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

    def _told(self) -> str:
        if self._compiled() == GREEDY:
            return "it takes the likeliest token (temperature 0)"
        compiled = self._compiled()
        return f"temperature {compiled['temperature']}, top_p {compiled['top_p']}, top_k {compiled['top_k']}"


def on_device(fields: Mapping[str, Any]) -> OnDevice | None:
    """None where the graph gives logits."""
    sampling = fields.get("on_device_sampling_config")
    return None if sampling is None else OnDevice(sampling_fields(sampling))
