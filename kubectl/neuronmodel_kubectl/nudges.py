"""`kubectl nm retry` and `kubectl nm restart`: a new value of an annotation, which the operator acts on."""

import argparse

from neuronmodel_api import names
from neuronmodel_kubectl.cluster import MODELS, Cluster
from neuronmodel_kubectl.models import now


def retry(cluster: Cluster, options: argparse.Namespace) -> None:
    _annotate(cluster, options.name, names.ANNOTATION_RETRY)
    print(f"{options.name}: a `prepare` that failed is tried again; `kubectl nm status {options.name}`")


def restart(cluster: Cluster, options: argparse.Namespace) -> None:
    _annotate(cluster, options.name, names.ANNOTATION_RESTART)
    print(f"{options.name}: its worker is replaced; `kubectl nm status {options.name}`")


def _annotate(cluster: Cluster, name: str, annotation: str) -> None:
    value = f"{now():%Y-%m-%dT%H:%M:%S.%fZ}"
    cluster.run("annotate", MODELS, name, f"{annotation}={value}", "--overwrite")
