"""What tests of weights on a network have in common: names of the cluster for a server of theirs, and the scene."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from hack.cluster.layout import GATEWAY
from neuronmodel_api.conditions import ConditionType
from neuronmodel_api.status import Condition, SourceStatus, Start, WorkerProgress
from tests.authority import Authority
from tests.standins.faulty_http import FaultyServer, Rule

from . import outages, reference
from .chat import completion
from .cluster import API_VERSIONS, Object
from .disclosure import Disclosed
from .neuronmodels import Applied, Expected, wait_for_starts
from .room import Room
from .waiting import eventually

WORDS: Final = "w1 w2 w3"
TOKENS: Final = 12
WEIGHTS: Final = "model.safetensors"
LAST_TENSOR: Final = "lm_head.weight"
"""The last in its file. Each rank has a third of its rows, and asks for them alone where they are many."""
RANKS: Final = 3
LARGE_SIZE: Final = {"vocabulary": 99_000, "words": 99_000}
"""For a tiny checkpoint of 57 MB."""
FEW_POSITIONS: Final = {"compile": {"sequenceLength": 64, "maxContextLength": 32}}
"""So many words take up memory at each."""
MOST: Final = 0.9
"""Of a file, what came before it stalls."""
HTTPS_PORT: Final = 443


@dataclass
class Scene:
    """NeuronModels whose weights are on one server."""

    room: Room
    server: FaultyServer
    disclosed: Disclosed
    models: dict[str, Applied] = field(default_factory=dict)
    starts: dict[str, list[Start]] = field(default_factory=dict)
    """Those that were waited for, by model."""
    said: dict[tuple[str, str], Condition] = field(default_factory=dict)
    """By model and reason."""

    def apply_manifest(self, manifest: Object) -> None:
        self.models[manifest["metadata"]["name"]] = self.room.apply(manifest)[0]

    def wait_for_starts(self, *models: str) -> None:
        """Each by one more start."""
        before = [self.starts.setdefault(name, []) for name in models]
        expected = [
            Expected(self.models[name], None, starts[-1].id if starts else None)
            for name, starts in zip(models, before, strict=True)
        ]
        for starts, start in zip(before, wait_for_starts(*expected), strict=True):
            starts.append(start)

    def wait_for_reasons(self, reasons: Mapping[str, str]) -> None:
        """By model, why it is not Ready; side by side, as a reason is not shown while it is tried again."""

        def all_said() -> bool:
            for name, reason in reasons.items() - self.said.keys():
                ready = self.models[name].condition(ConditionType.READY)
                if ready and ready.status != "True" and ready.reason == reason:
                    self.said[name, reason] = ready
            return reasons.items() <= self.said.keys()

        def unsaid() -> str:
            return "\n\n".join(self.models[name].story() for name, _ in reasons.items() - self.said.keys())

        eventually(all_said, what=f"{', '.join(reasons)} to say why they are not ready", instead=unsaid)

    def wait_for_condition(self, name: str, kind: ConditionType, status: str, reason: str) -> None:
        self.said[name, reason] = self.models[name].wait_for_condition(kind, status, reason=reason)

    def delete_pod(self, name: str) -> None:
        model = self.models[name]
        model.cluster.delete("Pod", model.serving_pod()["metadata"]["name"], model.namespace)

    def stall_weights(self, file: Path, *, last_rank: bool, **requests: Any) -> list[Rule]:
        """What is asked for of the last tensor, or of the last rank's rows of it, ends at MOST of the file; `requests`
        are the fields of a fault that say which are for the file."""
        first, end = tensor_range(file, LAST_TENSOR)
        if last_rank:
            first += (end - first) * 2 // 3
        at_most = int(MOST * file.stat().st_size) - first
        return [
            self.server.faults.add(**requests, first_byte=first, stall_after_bytes=at_most),
            # A client that waited in vain asks for the rest.
            self.server.faults.add(**requests, first_byte=first + 1, stall_after_bytes=0),
        ]

    def kill_preparation_of_the_last_rank(self, name: str) -> WorkerProgress:
        """Of weights that are stalled for it, once all other ranks' files are whole; the progress until then."""
        model = self.models[name]
        volume = eventually(lambda: model.artifacts_folder, what="its volume", instead=model.story)
        what = "the files of all ranks but the last"
        eventually(lambda: num_rank_files(volume) == RANKS - 1, what=what, instead=model.story)
        progress = eventually(lambda: transferring(model), what="its progress", instead=model.story)
        assert outages.kill(model.preparing_pods())
        return progress

    def answers_as(self, name: str, folder: Path) -> bool:
        expected = reference.answer(folder, WORDS, num_tokens=TOKENS)
        return completion(self.models[name], WORDS, num_tokens=TOKENS) == expected

    def source(self, name: str) -> SourceStatus:
        source = self.models[name].status.source
        assert source is not None
        return source

    def volumes(self) -> list[Path]:
        """On this machine, those of artifacts."""
        return [folder for model in self.models.values() if (folder := model.artifacts_folder)]


def tensor_range(file: Path, name: str) -> tuple[int, int]:
    """The first byte of a tensor in a safetensors file, and the byte behind its last one."""
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        first, end = json.loads(opened.read(length))[name]["data_offsets"]
    return 8 + length + first, 8 + length + end


def transferring(model: Applied) -> WorkerProgress | None:
    """Of a worker that has reported bytes."""
    found = (worker.progress for worker in model.status.workers)
    return next((progress for progress in found if progress and progress.bytes and progress.source), None)


def num_rank_files(volume: Path) -> int:
    """That are whole, of a set that is not."""
    return len(list(volume.glob("staging/shards-*/seals/*.safetensors.json")))


def service(host: str, port: int, *, service_port: int = HTTPS_PORT) -> list[Object]:
    """A name of the cluster, `NAME.NAMESPACE.svc`, for a port of this machine; by default at the usual one of https."""
    name, namespace = host.split(".")[:2]
    endpoints = of_namespace(
        namespace,
        "EndpointSlice",
        name,
        addressType="IPv4",
        ports=[{"port": port}],
        endpoints=[{"addresses": [GATEWAY]}],
    )
    endpoints["metadata"]["labels"] = {"kubernetes.io/service-name": name}
    spec = {"ports": [{"port": service_port, "targetPort": port}]}
    return [of_namespace(namespace, "Service", name, spec=spec), endpoints]


def trusted(namespace: str, place: Mapping[str, str], authority: Authority) -> Object:
    """An authority's certificate where a `configMapKeyRef` names it."""
    content = {place["key"]: authority.certificate.read_text()}
    return of_namespace(namespace, "ConfigMap", place["name"], data=content)


def of_namespace(namespace: str, kind: str, name: str, **content: Any) -> Object:
    about = {"name": name, "namespace": namespace}
    return {"apiVersion": API_VERSIONS[kind], "kind": kind, "metadata": about, **content}
