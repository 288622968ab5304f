"""`neuronmodel cleanup`: removes a deleted model's references, and the sets that no other model refers to."""

import logging

from neuronmodel_api import names
from neuronmodel_api.phases import StartPhase
from neuronmodel_worker.report.admin import admin_server
from neuronmodel_worker.report.metrics import WorkerMetrics
from neuronmodel_worker.run.context import Run
from neuronmodel_worker.store import Store

log = logging.getLogger(__name__)


def cleanup(job: Run) -> None:
    """Removes the references of every model that ever had this name, since a later model of the name takes them
    over."""
    with admin_server(job.clock, WorkerMetrics(job.clock, job.volumes), job.config.admin_port):
        with job.clock.phase(StartPhase.LIBRARIES_IMPORTED):
            store = Store(job.artifacts)
        with job.clock.phase(StartPhase.ARTIFACTS_REMOVED):
            # Any UID: neither namespaces nor names of models hold a dot, so the pattern matches this name alone.
            dropped = store.retire(names.owner(job.config.namespace, job.config.name, "*"))
            removed = store.remove_unreferenced(dropped, job.config.keys_in_use)
    log.info("references to %d sets removed, and %d sets that nobody else needs", len(dropped), len(removed))
