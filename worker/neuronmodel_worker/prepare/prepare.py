"""`neuronmodel prepare`: opens the source, computes the keys, builds what the artifacts volume lacks, and reports it.

Killed at any moment, it leaves sealed sets, sealed rank files that the next run adopts, and nothing else that counts.
"""

from neuronmodel_api.phases import StartPhase
from neuronmodel_worker.engines import open_engine
from neuronmodel_worker.engines.installed_server import required_server
from neuronmodel_worker.prepare.preparation import Preparation, open_source
from neuronmodel_worker.report.admin import admin_server
from neuronmodel_worker.report.metrics import WorkerMetrics
from neuronmodel_worker.run.context import Run
from neuronmodel_worker.sizing import require_fit
from neuronmodel_worker.text import load_text


def prepare(job: Run) -> None:
    """Prepares the artifacts of one model. Raises a WorkerFailure."""
    with admin_server(job.clock, WorkerMetrics(job.clock, job.volumes), job.config.admin_port):
        with job.clock.phase(StartPhase.LIBRARIES_IMPORTED):
            job.use_scratch()
        with job.clock.phase(StartPhase.SOURCE_OPENED):
            required_server(job.config)  # raises before anything is opened
            plan = open_source(job)
            require_fit(plan, job.config)
            engine = open_engine(job.folder_config)
            engine.graph_inputs(plan, job.config.neuron_config)  # raises before any weights are read
        with job.clock.phase(StartPhase.TOKENIZER_LOADED):
            text = load_text(job.weights.folder(), job.config.generation_config, plan.vocabulary)
        preparation = Preparation(job, plan, engine, while_building=text.warn_of_version_differences)
        job.clock.found(preparation.result())
