"""What a NeuronModel asks for, as hashes. A field that a later version adds leaves them as they are while it is unset:
an upgrade of the operator alone reruns and restarts nothing."""

import hashlib
import json
from typing import Any

from neuronmodel_api import names
from neuronmodel_api.config import Engine, Seal, Server, Strategy, Weights
from neuronmodel_api.spec import NeuronModelSpec, Object
from neuronmodel_operator.state.annotations import Prepared

_NOT_OF_THE_WORKER: dict[str, Any] = {
    "suspend": True,
    "prepare": True,
    "serving": {"replicas", "update_strategy", "start_timeout_seconds"},
    "artifacts": {"retention": True, "template": {"size"}},
}

_COMPILER_VARIABLES = ("NEURON_CC_FLAGS", "NEURON_PLATFORM_TARGET_OVERRIDE")


def digest(value: object) -> str:
    """16 hexadecimal digits over JSON values."""
    encoded = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()
    return hashlib.sha256(encoded).hexdigest()[:16]


def inputs_hash(spec: NeuronModelSpec, strategy: Strategy, claim: str, instance_type: str) -> str:
    """Over everything that `prepare`'s result depends on: what it reads, what it builds, where to, and what it has to
    fit: the machine, the server and the compiler's variables. Resources, other variables and placement beside the
    instance type change nothing of it and rerun no finished Job, nor do images (one that a live worker never ran is
    tried by one more); nor does what `prepare` is told for one run alone
    (history, keys in use, how closely it looks). `strategy` is what is asked for, Auto too."""
    inputs: dict[str, Any] = spec.model_dump(
        mode="json",
        exclude_defaults=True,
        include={"model": {"source", "type"}, "engine": True, "parallelism": True, "compile": True},
    )
    unusual = {
        "seal": seal_asked(spec, strategy) is Seal.BEHIND and Seal.BEHIND,
        "weights": spec.sharding.weights is Weights.NATIVE and Weights.NATIVE,
        "server": spec.serving.server is Server.VLLM and Server.VLLM,
        "instanceType": instance_type != names.DEFAULT_INSTANCE_TYPE and instance_type,
        "compiler": spec.engine is Engine.NEURON and _of_the_compiler(spec),
    }
    inputs |= {name: value for name, value in unusual.items() if value}
    return digest(inputs | {"strategy": strategy, "claim": claim})


def _of_the_compiler(spec: NeuronModelSpec) -> list[Object]:
    """The variables that compiled models depend on, as far as the user sets them."""
    return [item for item in spec.worker.env if item["name"] in _COMPILER_VARIABLES]


def seal_asked(spec: NeuronModelSpec, strategy: Strategy) -> Seal:
    """Before where there are no shards to seal."""
    asked = spec.sharding.seal if strategy is not Strategy.SHARD_ON_LOAD else None
    return asked or Seal.BEFORE


def target_hash(spec: NeuronModelSpec, strategy: Strategy, restart: str) -> str:
    """Over everything in a NeuronModel that a serving pod is made from, but for what `prepare` returns."""
    asked = spec.model_dump(mode="json", exclude_defaults=True, exclude=_NOT_OF_THE_WORKER)
    # An object of which only what is left out was set is as good as none.
    asked = {name: value for name, value in asked.items() if value != {}}
    return digest({"spec": asked, "strategy": strategy, "restart": restart})


def spec_hash(target: str, prepared: Prepared) -> str:
    """Over everything that a serving pod is made from, but for the operator's own version and configuration."""
    return digest({"target": target, "prepared": prepared.to_json()})
