"""Reports of workers, asked for through the API server where the user may; else what status has of them is shown."""

from neuronmodel_api import names
from neuronmodel_api.report import Report, parse_report
from neuronmodel_kubectl.cluster import Cluster
from neuronmodel_kubectl.failures import PluginError


def report_of(cluster: Cluster, namespace: str, pod: str) -> Report | None:
    """Returns None where the pod does not answer, or the user may not ask it (`pods/proxy`)."""
    try:
        return parse_report(raw_report(cluster, namespace, pod))
    except (PluginError, ValueError):
        return None


def raw_report(cluster: Cluster, namespace: str, pod: str) -> str:
    """Raises PluginError."""
    path = f"/api/v1/namespaces/{namespace}/pods/{pod}:{names.ADMIN_PORT}/proxy/status"
    return Cluster(cluster.options).run("get", "--raw", path)
