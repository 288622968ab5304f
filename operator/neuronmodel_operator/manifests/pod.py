"""The pod template that prepare, serve and clean-up share. The user's values are merged in by key and take
precedence."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from pydantic.alias_generators import to_camel

from neuronmodel_api import names
from neuronmodel_api.config import ADDED_FIELDS, Engine, Seal, WorkerConfig
from neuronmodel_api.references import KeyRef
from neuronmodel_api.report import ServerKind, Sizing
from neuronmodel_api.sources import NetworkSource
from neuronmodel_api.spec import ClaimTemplate, NeuronModelSpec, Scratch
from neuronmodel_operator.manifests import instance_type, metadata, resources
from neuronmodel_operator.state.observed import ObservedModel
from neuronmodel_operator.state.plan import Manifest

Object = dict[str, Any]

SOURCE_VOLUME: Final = "source"
ARTIFACTS_VOLUME: Final = "artifacts"
SCRATCH_VOLUME: Final = "scratch"
SECRETS_VOLUME: Final = "api-key"
"""Named after what it had first: users' own volumes may have any name that was not reserved then."""
SHARED_MEMORY_VOLUME: Final = "shared-memory"

DEFAULT_GRACE_SECONDS: Final = 60
EXECUTION_TIMEOUT_SECONDS: Final = 600
"""NEURON_RT_EXEC_TIMEOUT as AWS's guide for models of this size sets it, in seconds."""
DEFAULT_MEMORY: Final = "1Gi"
"""Enough for sensible scheduling; `prepare` computes what a start needs."""
_SMALL_CPU: Final = "100m"
"""A worker of the CPU engine is idle when there are no requests; docs/sizing.md has the measurements."""
_CLEANUP_CPU: Final = "20m"
_NEURON_CPU: Final = "250m"
"""The devices determine the node."""
_IDENTITY: Final = ("169.254.169.254", "169.254.170.23", "fd00:ec2::23", "fd00:ec2::254")
"""The instance metadata and EKS Pod Identity, by both versions of IP."""


@dataclass(frozen=True)
class WorkerPod:
    """What distinguishes the pods of workers."""

    model: ObservedModel
    component: str
    image: str
    artifacts_claim: str
    config: WorkerConfig
    annotations: Mapping[str, str]
    sizing: Sizing | None = None
    """What a start needs; None if it is unknown or the pod makes no start."""
    server: str | None = None
    """The kind of the vLLM that serves, a member of `ServerKind`; None if the worker does, or it is unknown."""
    proxy: Mapping[str, str] = field(default_factory=dict)
    """Variables that say by which proxy a source on a network is read."""

    @property
    def spec(self) -> NeuronModelSpec:
        return self.model.spec

    @property
    def serves(self) -> bool:
        return self.component == names.COMPONENT_SERVE

    @property
    def needs_source(self) -> bool:
        return self.component != names.COMPONENT_CLEANUP

    @property
    def network_source(self) -> NetworkSource | None:
        """What the pod reads over a network, if the source is of that kind."""
        return self.spec.model.source.on_network if self.needs_source else None

    @property
    def has_source_volume(self) -> bool:
        return self.needs_source and self.network_source is None

    @property
    def is_neuron(self) -> bool:
        return self.spec.engine is Engine.NEURON

    @property
    def shared_memory(self) -> str | None:
        return resources.shared_memory(self.spec, self.sizing) if self.sizing else None


def pod_template(pod: WorkerPod) -> Manifest:
    worker = pod.spec.worker
    labels = metadata.labels(pod.model, pod.component)
    return {
        "metadata": {
            "labels": worker.pod_labels | labels,
            "annotations": worker.pod_annotations | dict(pod.annotations),
        },
        "spec": _pod_spec(pod),
    }


def _pod_spec(pod: WorkerPod) -> Manifest:
    worker = pod.spec.worker
    spec: Manifest = {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "restartPolicy": "Always" if pod.serves else "Never",
        "terminationGracePeriodSeconds": _first(worker.termination_grace_period_seconds, DEFAULT_GRACE_SECONDS),
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": names.USER_ID,
            "runAsGroup": names.USER_ID,
            "fsGroup": names.USER_ID,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [_container(pod)],
        "volumes": _volumes(pod),
    }
    optional: Manifest = {
        "nodeSelector": _node_selector(pod),
        "tolerations": _tolerations(pod),
        "affinity": _placement(pod, "affinity"),
        "topologySpreadConstraints": list(worker.topology_spread_constraints) if pod.serves else [],
        "resourceClaims": list(worker.resource_claims) if pod.serves else [],
        "imagePullSecrets": list(worker.image_pull_secrets),
        "schedulerName": worker.scheduler_name,
        "priorityClassName": worker.priority_class_name,
        "serviceAccountName": worker.service_account_name,
    }
    return spec | {key: value for key, value in optional.items() if value}


# The container.


def _container(pod: WorkerPod) -> Manifest:
    worker = pod.spec.worker
    container: Manifest = {
        "name": names.CONTAINER,
        "image": pod.image,
        "command": ["neuronmodel"],
        "args": [pod.component],
        "env": _merged(_environment(pod), worker.env, "name"),
        "ports": _ports(pod),
        "resources": _resources(pod),
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "runAsNonRoot": True,
            "capabilities": {"drop": ["ALL"]},
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "terminationMessagePath": names.TERMINATION_LOG,
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": _mounts(pod),
    }
    if worker.image_pull_policy:
        container["imagePullPolicy"] = worker.image_pull_policy
    return container | (_probes() if pod.serves else {})


def _environment(pod: WorkerPod) -> list[Object]:
    values = {
        names.ENV_CONFIG: _encoded(pod.config),
        "HOME": names.SCRATCH_MOUNT,
        "TMPDIR": names.SCRATCH_MOUNT,
        "HF_HUB_OFFLINE": "1",
    }
    if pod.is_neuron:
        values |= _neuron_environment(pod)
    if source := pod.network_source:
        values |= _proxy(pod.proxy, source)
    fields = {
        names.ENV_POD_UID: "metadata.uid",
        names.ENV_POD_NAME: "metadata.name",
        names.ENV_NODE_NAME: "spec.nodeName",
    }
    return [{"name": name, "value": value} for name, value in values.items()] + [
        {"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}} for name, path in fields.items()
    ]


def _proxy(proxy: Mapping[str, str], source: NetworkSource) -> dict[str, str]:
    """Returns the variables of the proxy. A pod's own credentials come from addresses that no proxy reaches."""
    values = dict(proxy)
    if source.ASKS_THE_INSTANCE and values:
        excepted = values.get("NO_PROXY", "").split(",")
        values["NO_PROXY"] = ",".join([*filter(None, excepted), *(each for each in _IDENTITY if each not in excepted)])
    return values


def _encoded(config: WorkerConfig) -> str:
    """Encodes the configuration as one line of sorted JSON: the same spec must give the same bytes, or an upgrade would
    roll pods. Fields of later versions are omitted while they have their defaults."""
    fields, usual = config.to_json(), WorkerConfig(namespace="", name="", uid="", spec_hash="", engine=config.engine)
    for name in ADDED_FIELDS:
        if getattr(config, name) == getattr(usual, name):
            fields.pop(to_camel(name), None)
    return _literal(json.dumps(fields, sort_keys=True, separators=(",", ":")))


def _literal(text: str) -> str:
    """Escapes the value of a variable: the kubelet replaces $(NAME) by another variable, and $$ by $."""
    return text.replace("$", "$$")


def _neuron_environment(pod: WorkerPod) -> dict[str, str]:
    values = {
        "NEURON_RT_VIRTUAL_CORE_SIZE": str(instance_type.logical_core_config(pod.spec)),
        "NEURON_COMPILE_CACHE_URL": f"{names.SCRATCH_MOUNT}/neuron-compile-cache",
        "BASE_COMPILE_WORK_DIR": f"{names.SCRATCH_MOUNT}/neuron-compile",
    }
    if pod.serves:
        return values | _cores(pod) | {"NEURON_RT_EXEC_TIMEOUT": str(EXECUTION_TIMEOUT_SECONDS)}
    return values | {"NEURON_PLATFORM_TARGET_OVERRIDE": instance_type.platform(pod.spec)}


def _cores(pod: WorkerPod) -> dict[str, str]:
    """Returns the variable that names the logical cores of the pod's ranks. vLLM Neuron gives each of its processes its
    own core, and ends if the runtime's variables have chosen before."""
    count = pod.spec.parallelism.num_local_ranks
    if pod.server == ServerKind.VLLM_NEURON:
        return {"NEURON_VISIBLE_DEVICES": f"0-{count - 1}" if count > 1 else "0"}
    return {"NEURON_RT_NUM_CORES": str(count)}


def _ports(pod: WorkerPod) -> list[Object]:
    admin = {"name": names.ADMIN_PORT_NAME, "containerPort": names.ADMIN_PORT, "protocol": "TCP"}
    if not pod.serves:
        return [admin]
    port = {"name": names.SERVING_PORT_NAME, "containerPort": pod.spec.serving.port, "protocol": "TCP"}
    return [port, admin]


def _probes() -> Manifest:
    return {
        # Every second, so that the pod's Ready time is the worker's.
        "readinessProbe": {
            "httpGet": {"path": "/readyz", "port": names.ADMIN_PORT_NAME},
            "periodSeconds": 1,
            "timeoutSeconds": 5,
            "failureThreshold": 3,
        },
        # Generous: a worker that loads keeps every processor busy, and killing it restarts the load.
        "livenessProbe": {
            "httpGet": {"path": "/healthz", "port": names.ADMIN_PORT_NAME},
            "initialDelaySeconds": 60,
            "periodSeconds": 20,
            "timeoutSeconds": 10,
            "failureThreshold": 6,
        },
    }


def default_requests(pod: WorkerPod) -> dict[str, str]:
    """Returns the requests for resources that neither the user nor `prepare` specifies."""
    of_engine = _NEURON_CPU if pod.is_neuron else _SMALL_CPU
    cpu = of_engine if pod.needs_source else _CLEANUP_CPU
    return {"cpu": cpu, "memory": DEFAULT_MEMORY}


def _resources(pod: WorkerPod) -> Manifest:
    own = pod.spec.prepare.resources if not pod.serves else None
    given = own if own is not None else pod.spec.worker.resources or {}
    requests, limits = dict(given.get("requests") or {}), dict(given.get("limits") or {})
    sized = resources.requests(pod.spec, pod.sizing) if pod.sizing else {}
    for name, quantity in (default_requests(pod) | sized).items():
        # A limit without a request is its own request; a default above it would be refused.
        if name not in limits:
            requests.setdefault(name, quantity)
    requested, limited = (each.pop(names.NEURON_RESOURCE, None) for each in (requests, limits))
    claims = [{"name": claim["name"]} for claim in pod.spec.worker.resource_claims] if pod.serves else []
    derived = instance_type.num_devices(pod.spec) if pod.is_neuron and not claims else None
    devices = next((each for each in (limited, requested, derived) if each is not None), None)
    if devices is not None and pod.serves:
        requests[names.NEURON_RESOURCE] = limits[names.NEURON_RESOURCE] = str(devices)
    found = (("requests", requests), ("limits", limits), ("claims", claims))
    return {key: value for key, value in found if value}


# Placement.


def _placement(pod: WorkerPod, field: str) -> Any:
    """Returns the Job's own value if set, or else the worker's: a Job that is placed freely may bind the volume where
    there is no Trn2."""
    own = getattr(pod.spec.prepare, field) if not pod.serves else None
    return own if own is not None else getattr(pod.spec.worker, field)


def _node_selector(pod: WorkerPod) -> dict[str, str]:
    given: dict[str, str] = _placement(pod, "node_selector") or {}
    # With its own selector, a Job may be placed where there is no Trn2.
    is_own = not pod.serves and pod.spec.prepare.node_selector is not None
    default = {names.INSTANCE_TYPE_LABEL: names.DEFAULT_INSTANCE_TYPE} if pod.is_neuron and not is_own else {}
    return default | given


def _tolerations(pod: WorkerPod) -> list[Object]:
    given: Iterable[Object] = _placement(pod, "tolerations") or ()
    default = [{"key": names.NEURON_TAINT, "operator": "Exists", "effect": "NoSchedule"}] if pod.is_neuron else []
    return _merged(default, given, "key", "effect")


# Volumes.


def _volumes(pod: WorkerPod) -> list[Object]:
    """Returns one volume per claim: a kubelet does not mount two volumes of a pod that refer to the same claim, and
    reports nothing."""
    return [volume for volume in _all_volumes(pod) if _shared_name(pod, volume["name"]) == volume["name"]]


def _shared_name(pod: WorkerPod, name: str) -> str:
    """Returns the volume that is mounted instead: of those with the same claim the writable one. A source that the
    user's own volumes refer to as well stays read-only."""
    volumes = {each["name"]: each.get("persistentVolumeClaim") or {} for each in _all_volumes(pod)}
    claim = volumes.get(name, {}).get("claimName")
    if not claim:
        return name
    same = [each for each, named in volumes.items() if named.get("claimName") == claim]
    own = next((each for each in (ARTIFACTS_VOLUME, SCRATCH_VOLUME, SOURCE_VOLUME) if each in same), None)
    return own or next((each for each in same if not volumes[each].get("readOnly")), same[0])


def _all_volumes(pod: WorkerPod) -> list[Object]:
    volumes = [
        {"name": ARTIFACTS_VOLUME, "persistentVolumeClaim": {"claimName": pod.artifacts_claim}},
        {"name": SCRATCH_VOLUME, **_scratch(pod.spec.scratch)},
    ]
    if pod.has_source_volume:
        volumes.insert(0, {"name": SOURCE_VOLUME, **_source(pod.spec)})
    if secrets := _secrets(pod):
        volumes.append({"name": SECRETS_VOLUME, "projected": {"sources": secrets}})
    if pod.shared_memory:
        memory = {"medium": "Memory", "sizeLimit": pod.shared_memory}
        volumes.append({"name": SHARED_MEMORY_VOLUME, "emptyDir": memory})
    return _merged(volumes, pod.spec.worker.volumes, "name")


def _secrets(pod: WorkerPod) -> list[Object]:
    """Returns what is mounted as files below `names.SECRETS_MOUNT`. What the source is read with may be missing: a
    start that asks for nothing does not need it."""
    found = []
    if pod.serves and (key := pod.spec.serving.api_key_secret_ref):
        found.append(_projected("secret", key, names.API_KEY_FILE))
    source = pod.network_source
    if source and (files := source.secret_files):
        found.append(_projected_files("secret", files.secret, files.keys, optional=True))
    bundle = source.ca_bundle if source else None
    if bundle and bundle.config_map_key_ref:
        found.append(_projected("configMap", bundle.config_map_key_ref, names.SOURCE_CA_FILE, optional=True))
    elif bundle and bundle.secret_key_ref:
        found.append(_projected("secret", bundle.secret_key_ref, names.SOURCE_CA_FILE, optional=True))
    return found


def _projected(kind: str, ref: KeyRef, file: str, *, optional: bool = False) -> Object:
    return _projected_files(kind, ref.name, {file: ref.key}, optional=optional)


def _projected_files(kind: str, name: str, keys: Mapping[str, str], *, optional: bool) -> Object:
    """Returns files of one Secret or ConfigMap; `keys` has the key of each file."""
    named: Object = {
        "name": name,
        "items": [{"key": key, "path": file.rsplit("/", 1)[-1]} for file, key in keys.items()],
    }
    return {kind: named | ({"optional": True} if optional else {})}


def _source(spec: NeuronModelSpec) -> Object:
    source = spec.model.source
    if source.persistent_volume_claim:
        # readOnly here and not only at the mount: else fsGroup rewrites the owners of the user's files.
        return {"persistentVolumeClaim": {"claimName": source.persistent_volume_claim.claim_name, "readOnly": True}}
    if source.host_path is None:
        raise ValueError("spec.model.source names no volume; the API server lets no such NeuronModel in")
    return {"hostPath": {"path": source.host_path.path, "type": "Directory"}}


def _scratch(scratch: Scratch) -> Object:
    if scratch.ephemeral:
        return {"ephemeral": {"volumeClaimTemplate": {"spec": _claim_spec(scratch.ephemeral)}}}
    if scratch.persistent_volume_claim:
        return {"persistentVolumeClaim": {"claimName": scratch.persistent_volume_claim.claim_name}}
    if scratch.host_path:
        return {"hostPath": {"path": scratch.host_path.path, "type": "DirectoryOrCreate"}}
    limit = scratch.empty_dir.size_limit if scratch.empty_dir else None
    return {"emptyDir": {"sizeLimit": limit} if limit else {}}


def _claim_spec(template: ClaimTemplate) -> Object:
    spec: Object = {
        "accessModes": list(template.access_modes),
        "resources": {"requests": {"storage": template.size}},
    }
    return spec | ({"storageClassName": template.storage_class_name} if template.storage_class_name else {})


def _mounts(pod: WorkerPod) -> list[Object]:
    volumes = _all_volumes(pod)
    only_read = {each["name"] for each in volumes if (each.get("persistentVolumeClaim") or {}).get("readOnly")}
    found = []
    for mount in _all_mounts(pod):
        shared = _shared_name(pod, mount["name"])
        keeps = {"readOnly": True} if shared != mount["name"] and mount["name"] in only_read else {}
        found.append({**mount, "name": shared, **keeps})
    return found


def _all_mounts(pod: WorkerPod) -> list[Object]:
    artifacts: Object = {"name": ARTIFACTS_VOLUME, "mountPath": names.ARTIFACTS_MOUNT}
    mounts = [
        artifacts | ({"readOnly": True} if pod.serves and pod.config.seal is Seal.BEFORE else {}),
        {"name": SCRATCH_VOLUME, "mountPath": names.SCRATCH_MOUNT},
    ]
    if pod.has_source_volume:
        mounts.insert(0, {"name": SOURCE_VOLUME, "mountPath": names.SOURCE_MOUNT, "readOnly": True})
    if _secrets(pod):
        mounts.append({"name": SECRETS_VOLUME, "mountPath": names.SECRETS_MOUNT, "readOnly": True})
    if pod.shared_memory:
        mounts.append({"name": SHARED_MEMORY_VOLUME, "mountPath": names.SHARED_MEMORY_MOUNT})
    return _merged(mounts, pod.spec.worker.volume_mounts, "mountPath")


# Merging.


def _merged(defaults: Iterable[Object], given: Iterable[Object], *keys: str) -> list[Object]:
    """Merges two lists by the values of `keys`; a given item replaces the default with the same key, in its place."""
    found = {tuple(item.get(key) for key in keys): item for item in defaults}
    return list((found | {tuple(item.get(key) for key in keys): item for item in given}).values())


def _first(given: int | None, default: int) -> int:
    return default if given is None else given
