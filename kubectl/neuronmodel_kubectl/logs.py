"""`kubectl nm logs`: the log of the worker that matters, without having to know the pod's name."""

import argparse
from collections.abc import Sequence

from neuronmodel_api import names
from neuronmodel_kubectl.cluster import Cluster, Object
from neuronmodel_kubectl.failures import PluginError
from neuronmodel_kubectl.models import ReadModel, read_model


def follow_logs(cluster: Cluster, options: argparse.Namespace) -> None:
    model = read_model(cluster, options.name)
    cluster = cluster.in_namespace(model.namespace)
    pod = pod_that_matters(model, cluster.items("pods", f"--selector={model.pod_selector}"), options)
    extra = [f"--tail={options.tail}"] if options.tail is not None else []
    extra += ["--follow"] if options.follow else []
    extra += ["--previous"] if options.previous else []
    cluster.replaced_by("logs", pod["metadata"]["name"], f"--container={names.CONTAINER}", *extra)


def pod_that_matters(model: ReadModel, pods: Sequence[Object], options: argparse.Namespace) -> Object:
    """Returns the pod that was named, else the newest that serves, else that of the last attempt of `prepare`. Raises
    PluginError where there is none."""
    if options.pod:
        found = [pod for pod in pods if pod["metadata"]["name"] == options.pod]
        if not found:
            there = ", ".join(sorted(pod["metadata"]["name"] for pod in pods)) or "none"
            raise PluginError(f"{options.pod} is no pod of {model.name}; there are: {there}.")
        return found[0]
    components = [names.COMPONENT_PREPARE] if options.prepare else [names.COMPONENT_SERVE, names.COMPONENT_PREPARE]
    for component in components:
        found = [pod for pod in pods if component_of(pod) == component]
        if found:
            return max(found, key=lambda pod: pod["metadata"]["creationTimestamp"])
    what = "that prepares" if options.prepare else "at all"
    raise PluginError(f"{model.namespace}/{model.name} has no pod {what}: `kubectl nm status {model.name}` says why.")


def component_of(pod: Object) -> str:
    return str((pod["metadata"].get("labels") or {}).get(names.LABEL_COMPONENT, ""))
