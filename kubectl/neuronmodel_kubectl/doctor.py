"""`kubectl nm doctor`: everything that somebody needs who shall find out what is wrong, in one archive without secrets.

What can't be read is named in the archive, and ends nothing: at three in the morning half of it is better than none.
"""

import argparse
import io
import json
import os
import re
import tarfile
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

from neuronmodel_api import names
from neuronmodel_kubectl.cluster import MODELS, Cluster, Object
from neuronmodel_kubectl.failures import PluginError
from neuronmodel_kubectl.logs import component_of
from neuronmodel_kubectl.models import now
from neuronmodel_kubectl.redaction import Redaction, mappings
from neuronmodel_kubectl.reports import raw_report

KINDS: Final = ("deployments", "replicasets", "jobs", "pods", "services", "persistentvolumeclaims")
LOG_LINES: Final = 5000
OPERATOR: Final = "app.kubernetes.io/name=neuronmodel-operator"


def doctor(cluster: Cluster, options: argparse.Namespace) -> None:
    moment = now()
    file = options.file or Path(f"{options.name}-{moment:%Y%m%d-%H%M%S}.tar.gz")
    raw = cluster.json("get", MODELS, options.name)
    namespace = raw["metadata"]["namespace"]
    files, problems = Collection(cluster.in_namespace(namespace), raw).files()
    root = f"{options.name}-{moment:%Y%m%d-%H%M%S}"
    try:
        # For its owner alone: what is left may still say more than everybody should read.
        opened = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(opened, "wb") as sink, tarfile.open(fileobj=sink, mode="w:gz") as archive:
            for name, text in files:
                data = text.encode()
                entry = tarfile.TarInfo(f"{root}/{name}")
                entry.size, entry.mtime, entry.mode = len(data), int(moment.timestamp()), 0o600
                archive.addfile(entry, io.BytesIO(data))
    except OSError as error:
        raise PluginError(f"{file} can't be written: {error.strerror or error}.") from error
    print(f"wrote {file}: {len(files)} files, without secrets; look it over before you send it")
    for problem in problems:
        print(f"  not in it: {problem}")


class Collection:
    """What belongs to one NeuronModel."""

    def __init__(self, cluster: Cluster, model: Object) -> None:
        self._cluster = cluster
        self._model = model
        self._name = str(model["metadata"]["name"])
        self._namespace = str(model["metadata"]["namespace"])
        self._redaction = Redaction()
        self._problems: list[str] = []

    def files(self) -> tuple[list[tuple[str, str]], list[str]]:
        """Returns texts by their names, and what could not be read."""
        selector = f"--selector={names.LABEL_MODEL}={self._name}"
        kinds = {kind: self._items(kind, selector) for kind in KINDS}
        claims = self._claims(kinds["persistentvolumeclaims"])
        self._redaction.learn([self._model, *(each for found in kinds.values() for each in found)])
        found = [("neuronmodel.json", self._json(self._model)), ("versions.json", self._json(self._versions()))]
        found += [(f"{kind}.json", self._json(each)) for kind, each in kinds.items()]
        found.append(("claims.json", self._json(claims)))
        found.append(("events.json", self._json(self._events(kinds))))
        found += list(self._reports(kinds["pods"]))
        found += list(self._logs(kinds["pods"]))
        found += list(self._operator())
        if self._problems:
            found.append(("problems.txt", self._redaction.text("\n".join(self._problems) + "\n")))
        return found, self._problems

    def _json(self, made: Any) -> str:
        return json.dumps(self._redaction.object(made), indent=2) + "\n"

    def _tried(self, what: str, ask: Callable[[], Any], otherwise: Any) -> Any:
        try:
            return ask()
        except PluginError as error:
            self._problems.append(f"{what}: {error}")
            return otherwise

    def _items(self, kind: str, *arguments: str) -> list[Object]:
        found: list[Object] = self._tried(kind, lambda: self._cluster.items(kind, *arguments), [])
        return found

    def _claims(self, labelled: Sequence[Object]) -> list[Object]:
        """Claims that the spec names have no label of ours."""
        known = {claim["metadata"]["name"] for claim in labelled}
        named = {each.get("claimName") for each in mappings(self._model.get("spec"))}
        wanted = sorted(name for name in named - known if isinstance(name, str))
        asked = (
            self._tried(f"claim {name}", lambda name=name: self._cluster.json("get", "pvc", name), None)  # type: ignore[misc]
            for name in wanted
        )
        return [claim for claim in asked if claim]

    def _events(self, kinds: dict[str, list[Object]]) -> list[Object]:
        """Events about the NeuronModel and all that belongs to it."""
        uids = {
            self._model["metadata"]["uid"],
            *(each["metadata"]["uid"] for found in kinds.values() for each in found),
        }
        return [event for event in self._items("events") if event.get("involvedObject", {}).get("uid") in uids]

    def _reports(self, pods: Sequence[Object]) -> Iterator[tuple[str, str]]:
        """What running workers say of themselves; an ended one's report is in its pod."""
        for pod in pods:
            name = pod["metadata"]["name"]
            if pod.get("status", {}).get("phase") == "Running":
                report = self._tried(
                    f"report of {name}",
                    lambda name=name: raw_report(self._cluster, self._namespace, name),  # type: ignore[misc]
                    "",
                )
                if report:
                    yield f"reports/{name}.json", self._redaction.text(report)

    def _logs(self, pods: Sequence[Object]) -> Iterator[tuple[str, str]]:
        for pod in pods:
            name, restarts = pod["metadata"]["name"], _restarts(pod)
            if restarts is None:
                continue
            for former in (False, True) if restarts else (False,):
                text = self._tried(
                    f"log of {name}" + (" before its restart" if former else ""),
                    lambda name=name, former=former: self._cluster.run(  # type: ignore[misc]
                        "logs",
                        name,
                        f"--container={names.CONTAINER}",
                        f"--tail={LOG_LINES}",
                        "--timestamps",
                        *(("--previous",) if former else ()),
                    ),
                    "",
                )
                if text:
                    kind = component_of(pod) or "pod"
                    yield f"logs/{kind}-{name}{'-previous' if former else ''}.log", self._redaction.text(text)

    def _operator(self) -> Iterator[tuple[str, str]]:
        """What the operator logged of this NeuronModel, where the user may read that."""
        everywhere = Cluster(self._cluster.options, ("--all-namespaces",))
        pods: list[Object] = self._tried(
            "the operator's pods", lambda: everywhere.items("pods", f"--selector={OPERATOR}"), []
        )
        self._redaction.learn(pods)
        for pod in pods:
            namespace, name = pod["metadata"]["namespace"], pod["metadata"]["name"]
            yield f"operator/{namespace}-{name}.json", self._json(pod)
            for former in (False, True) if _restarts(pod, "operator") else (False,):
                text = self._log_of_operator(namespace, name, former=former)
                if text:
                    yield f"operator/{namespace}-{name}{'-previous' if former else ''}.log", text

    def _log_of_operator(self, namespace: str, name: str, *, former: bool) -> str:
        """The lines about this NeuronModel."""
        there = Cluster(self._cluster.options, ("--namespace", namespace))
        extra = ("--previous",) if former else ()
        text = self._tried(
            f"log of the operator {namespace}/{name}",
            lambda: there.run("logs", name, f"--tail={LOG_LINES}", *extra),
            "",
        )
        of_this = re.compile(rf"{re.escape(f'{self._namespace}/{self._name}')}(?![a-z0-9-])")
        return self._redaction.text("".join(f"{line}\n" for line in text.splitlines() if of_this.search(line)))

    def _versions(self) -> dict[str, Any]:
        try:
            own = version("neuronmodel")
        except PackageNotFoundError:
            own = "unknown"
        kubernetes = self._tried("versions", lambda: self._cluster.json("version"), {})
        return {"kubectl-nm": own, "kubernetes": kubernetes}


def _restarts(pod: Object, container: str = names.CONTAINER) -> int | None:
    """Returns None where the container has never run."""
    for status in pod.get("status", {}).get("containerStatuses") or []:
        if status["name"] == container:
            return (
                None if "waiting" in status.get("state", {}) and not status["restartCount"] else status["restartCount"]
            )
    return None
