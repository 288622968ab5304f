"""The artifacts, and the revisions of sources, that running workers and Deployments refer to. `prepare` and clean-up
must keep them, because a pod that restarts reads them, whatever the references in the store say."""

import json
import sys
from collections.abc import Iterable, Mapping
from typing import Any, Final

from pydantic.alias_generators import to_camel

from neuronmodel_api import names
from neuronmodel_api.sources import NETWORK_SOURCES
from neuronmodel_operator.decide.asked import Asked
from neuronmodel_operator.decide.situation import Situation
from neuronmodel_operator.manifests.pod import ARTIFACTS_VOLUME
from neuronmodel_operator.state.observed import Object, ServingWorkload

MAX_KEYS: Final = 1000
"""An environment variable may have 128 KiB, and a key takes about 40 bytes."""
MAX_KEY: Final = 256
_KEYS: Final = ("compiledKey", "shardsKey")
_REVISIONS: Final = {to_camel(kind.CONFIG_FIELD): to_camel(kind.CONFIG.PINNED_BY) for kind in NETWORK_SOURCES}
"""The field of a source in a worker's configuration, and the field of its revision in that."""


def keys_in_use(s: Situation) -> tuple[str, ...]:
    """Returns the keys that are used by anything that serves from this NeuronModel's artifacts volume, including
    itself."""
    return _keys(s.asked, s.observed.serving_workloads or ())


def keys_of_others(s: Situation) -> tuple[str, ...]:
    """Returns the keys in use by other NeuronModels: for a clean-up, while the NeuronModel's own Deployment may still
    be terminating."""
    return _keys(s.asked, (each for each in s.observed.serving_workloads or () if each.owner != s.asked.model.uid))


def _keys(asked: Asked, workloads: Iterable[ServingWorkload]) -> tuple[str, ...]:
    used = (each for each in workloads if each.claim == asked.artifacts_claim)
    return tuple(sorted({key for each in used for key in each.keys})[:MAX_KEYS])


def serving_workload(o: Object) -> ServingWorkload:
    """Reads a Deployment or a pod that serves."""
    spec = _pod_spec(o)
    owner = (o["metadata"].get("labels") or {}).get(names.LABEL_UID)
    return ServingWorkload(owner, _claim(spec), tuple(sys.intern(key) for key in _named(spec)))


def _pod_spec(o: Object) -> Mapping[str, Any]:
    """Returns the spec of a pod, or of a Deployment's pod template."""
    spec: Mapping[str, Any] = o.get("spec") or {}
    template = spec.get("template")
    return template.get("spec") or {} if template else spec


def _claim(spec: Mapping[str, Any]) -> str | None:
    volumes = (v for v in spec.get("volumes") or () if v["name"] == ARTIFACTS_VOLUME)
    return next(((v.get("persistentVolumeClaim") or {}).get("claimName") for v in volumes), None)


def _named(spec: Mapping[str, Any]) -> Iterable[str]:
    containers = (c for c in spec.get("containers") or () if c["name"] == names.CONTAINER)
    values = (item.get("value") for c in containers for item in c.get("env") or () if item["name"] == names.ENV_CONFIG)
    for value in values:
        try:
            config = json.loads(value or "{}")
        except ValueError:
            continue
        if not isinstance(config, dict):
            continue
        sources = ((config.get(name), revision) for name, revision in _REVISIONS.items())
        revisions = [source.get(revision) for source, revision in sources if isinstance(source, dict)]
        found = [*revisions, *(config.get(name) for name in _KEYS)]
        yield from (key for key in found if isinstance(key, str) and 0 < len(key) <= MAX_KEY)
