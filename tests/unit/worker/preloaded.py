"""Imports what a worker with the CPU engine imports in a start, for the fork server of forked.py."""

import neuronmodel_worker.engines.llama
import neuronmodel_worker.serve.serve  # noqa: F401
from neuronmodel_worker.text.transformers_library import transformers

transformers()
