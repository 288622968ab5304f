"""What `kubectl get nm` prints."""

import re

from .cluster import Cluster

COLUMNS = ["NAME", "READY", "REASON", "PROGRESS", "STRATEGY", "CACHE", "LOAD", "NODE", "AGE"]


def rows(cluster: Cluster, namespace: str, *options: str) -> dict[str, dict[str, str]]:
    """By name and column; a cell may be empty."""
    header, *lines = cluster.kubectl("get", "nm", f"--namespace={namespace}", *options).splitlines()
    columns = [(found[0], found.start()) for found in re.finditer(r"\S+", header)]
    ends = [*(start for _, start in columns[1:]), None]
    found = [
        {name: line[start:end].strip() for (name, start), end in zip(columns, ends, strict=True)} for line in lines
    ]
    return {row["NAME"]: row for row in found}
