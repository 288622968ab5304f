"""`kubectl nm list`."""

import argparse
import json

from neuronmodel_kubectl.cluster import Cluster
from neuronmodel_kubectl.drawing import age, console, print_whole, status_text, table
from neuronmodel_kubectl.models import now, read_models


def show_list(cluster: Cluster, options: argparse.Namespace) -> None:
    models = read_models(cluster)
    if options.output == "json":
        print(json.dumps([model.raw for model in models], indent=2))
        return
    out = console()
    if not models:
        out.print("No NeuronModels here; -A looks in every namespace.")
        return
    spaces = ("NAMESPACE",) if options.all_namespaces else ()
    rows = table(*spaces, "NAME", "READY", "REASON", "PROGRESS", "WORKERS", "STRATEGY", "CACHE", "LOAD", "NODE", "AGE")
    moment = now()
    for model in models:
        status, ready = model.status, model.ready
        wanted = 0 if model.spec.suspend else model.spec.serving.replicas
        answering = sum(worker.state == "Ready" for worker in status.workers)
        rows.add_row(
            *((model.namespace,) if options.all_namespaces else ()),
            model.name,
            status_text(ready.status) if ready else "",
            (ready.reason if ready else "no operator has seen it") + (" (old)" if ready and model.is_unhandled else ""),
            status.progress or "",
            f"{answering}/{wanted}",
            status.strategy.in_force if status.strategy else "",
            status.last_cache or "",
            status.last_load or "",
            ", ".join(dict.fromkeys(worker.node for worker in status.workers if worker.node)),
            age(model.created_at, moment),
        )
    print_whole(out, rows)
