"""Hashes of what a NeuronModel asks for. A field that a later version adds does not change them while it is unset, so
that an upgrade of the operator alone reruns and restarts nothing."""

import hashlib
import json
from typing import Any

from neuronmodel_api import names
from neuronmodel_api.config import Engine, Seal, Server, Strategy, Weights
from neuronmodel_api.sources import NETWORK_SOURCES
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
    """Returns 16 hexadecimal digits over JSON values."""
    encoded = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()
    return hashlib.sha256(encoded).hexdigest()[:16]


def inputs_hash(spec: NeuronModelSpec, strategy: Strategy, claim: str, instance_type: str, restart: str = "") -> str:
    """Returns the hash of everything that `prepare`'s result depends on: what it reads, what it builds, where it stores
    it, and what it must fit (machine, server and its arguments, compiler variables).

    Resources, other variables, placement other than the instance type, and images are not included and rerun no
    finished Job (an image that no live worker has run is tested by an extra one); nor are the parameters of a single
    run of `prepare` (history, keys in use, thoroughness of checks), nor by what right a source on a network is read.
    `strategy` is the requested one, which may be Auto. `restart`, the annotation's value, has a revision that moves
    resolved again.
    """
    inputs: dict[str, Any] = spec.model_dump(
        mode="json",
        exclude_defaults=True,
        include={"model": {"source", "type"}, "engine": True, "parallelism": True, "compile": True},
        exclude={"model": {"source": {kind.FIELD: set(kind.RIGHTS) for kind in NETWORK_SOURCES}}},
    )
    unusual = {
        "seal": seal_asked(spec, strategy) is Seal.BEHIND and Seal.BEHIND,
        "weights": spec.sharding.weights is Weights.NATIVE and Weights.NATIVE,
        "server": spec.serving.server is Server.VLLM and Server.VLLM,
        "extraArgs": list(spec.serving.extra_args),
        "instanceType": instance_type != names.DEFAULT_INSTANCE_TYPE and instance_type,
        "compiler": spec.engine is Engine.NEURON and _of_the_compiler(spec),
        "restart": revision_moves(spec) and restart,
    }
    inputs |= {name: value for name, value in unusual.items() if value}
    return digest(inputs | {"strategy": strategy, "claim": claim})


def _of_the_compiler(spec: NeuronModelSpec) -> list[Object]:
    """Returns the variables that compiled models depend on and that the user sets."""
    return [item for item in spec.worker.env if item["name"] in _COMPILER_VARIABLES]


def source_hash(spec: NeuronModelSpec, restart: str) -> str | None:
    """Returns the hash of what the revision of a source on a network is resolved for; None for a volume. As long as it
    is the same, the revision is, whatever else changes."""
    source = spec.model.source.on_network
    return digest([*source.identity, source.moves and restart]) if source else None


def revision_moves(spec: NeuronModelSpec) -> bool:
    """Whether the source may be another one tomorrow under the same name."""
    source = spec.model.source.on_network
    return source is not None and source.moves


def seal_asked(spec: NeuronModelSpec, strategy: Strategy) -> Seal:
    """Returns when shards are sealed; Before if there are no shards."""
    asked = spec.sharding.seal if strategy is not Strategy.SHARD_ON_LOAD else None
    return asked or Seal.BEFORE


def target_hash(spec: NeuronModelSpec, strategy: Strategy, restart: str) -> str:
    """Returns the hash of everything in a NeuronModel that determines a serving pod, except the result of `prepare`."""
    asked = spec.model_dump(mode="json", exclude_defaults=True, exclude=_NOT_OF_THE_WORKER)
    # An object of which only excluded fields were set counts as absent.
    asked = {name: value for name, value in asked.items() if value != {}}
    return digest({"spec": asked, "strategy": strategy, "restart": restart})


def spec_hash(target: str, prepared: Prepared) -> str:
    """Returns the hash of everything that determines a serving pod, except the operator's own version and
    configuration."""
    return digest({"target": target, "prepared": prepared.to_json()})
