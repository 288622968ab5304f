"""The folder that a start reads its compiled model through.

NxD Inference and vLLM look for the graph, its configuration and the shards in one folder, and believe the configuration
where it names a checkpoint. So every start has a folder of its own: links to sealed files, and a `neuron_config.json`
that names this NeuronModel's checkpoint and says what is to be done about shards.
"""

import json
import os
import shutil
from pathlib import Path
from typing import Any

from neuronmodel_api import names
from neuronmodel_worker.engines.nxdi.compiled import CONFIG_FILE, GRAPH_FILE, CompiledFiles
from neuronmodel_worker.engines.nxdi.settings import Purpose
from neuronmodel_worker.stream import WEIGHTS


def make_view(scratch: Path, compiled: CompiledFiles, source: Path, purpose: Purpose, shards: Path | None) -> Path:
    """Below `scratch`, anew with each start of a pod. Raises OSError."""
    view = scratch / "view" / (os.environ.get(names.ENV_POD_UID) or f"process-{os.getpid()}")
    if view.exists():
        shutil.rmtree(view)
    view.mkdir(parents=True)
    (view / GRAPH_FILE).symlink_to(compiled.directory.absolute() / GRAPH_FILE)
    if shards is not None:
        (view / WEIGHTS).symlink_to(shards.absolute() / WEIGHTS, target_is_directory=True)
    (view / CONFIG_FILE).write_text(json.dumps(_config(compiled, source, purpose), indent=2, sort_keys=True) + "\n")
    return view


def _config(compiled: CompiledFiles, source: Path, purpose: Purpose) -> dict[str, Any]:
    ranks = compiled.expected.ranks
    of_start = {**purpose.fields, "start_rank_id": ranks.start, "local_ranks_size": len(ranks)}
    neuron_config = {**compiled.config.get("neuron_config", {}), **of_start}
    return {**compiled.config, "_name_or_path": str(source), "neuron_config": neuron_config}


def library_path(path: Path) -> str:
    """As the library wants folders: ending in a slash."""
    return os.path.join(path, "")  # noqa: PTH118 - pathlib drops the slash
