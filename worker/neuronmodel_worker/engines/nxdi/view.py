"""The folder that a start reads its compiled model through.

NxD Inference and vLLM look for the graph, its configuration and the shards in one folder, and believe the configuration
where it names a checkpoint. So every start has a folder of its own: links to sealed files, and a `neuron_config.json`
that names this NeuronModel's checkpoint and says what is to be done about shards.
"""

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from neuronmodel_api import names
from neuronmodel_worker.engines.nxdi.compiled import CONFIG_FILE, GRAPH_FILE, OF_STRATEGY, CompiledFiles
from neuronmodel_worker.engines.nxdi.settings import Purpose
from neuronmodel_worker.stream import WEIGHTS


def make_view(
    scratch: Path,
    compiled: CompiledFiles,
    source: Path,
    purpose: Purpose,
    shards: Path | None,
    fields: Mapping[str, Any] | None = None,
) -> Path:
    """Below `scratch`, anew with each start of a pod. `fields`: NeuronConfig's, where whoever reads the view is given
    no others. Raises OSError."""
    view = scratch / "view" / (os.environ.get(names.ENV_POD_UID) or f"process-{os.getpid()}")
    if view.exists():
        shutil.rmtree(view)
    view.mkdir(parents=True)
    (view / GRAPH_FILE).symlink_to(compiled.directory.absolute() / GRAPH_FILE)
    if shards is not None:
        (view / WEIGHTS).symlink_to(shards.absolute() / WEIGHTS, target_is_directory=True)
    (view / CONFIG_FILE).write_text(
        json.dumps(_config(compiled, source, purpose, fields or {}), indent=2, sort_keys=True) + "\n"
    )
    return view


def _config(compiled: CompiledFiles, source: Path, purpose: Purpose, fields: Mapping[str, Any]) -> dict[str, Any]:
    ranks = compiled.expected.ranks
    freed_of = {name: fields[name] for name in OF_STRATEGY if fields.get(name) is not None}
    of_start = {**freed_of, **purpose.fields, "start_rank_id": ranks.start, "local_ranks_size": len(ranks)}
    neuron_config = {**compiled.config.get("neuron_config", {}), **of_start}
    return {**compiled.config, "_name_or_path": str(source), "neuron_config": neuron_config}


def library_path(path: Path) -> str:
    """As the library wants folders: ending in a slash."""
    return os.path.join(path, "")  # noqa: PTH118 - pathlib drops the slash
