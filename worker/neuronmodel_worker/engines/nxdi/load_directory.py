"""The directory that a start loads its compiled model from.

NxD Inference and vLLM look for the graph, its configuration and the shards in one directory, and prefer the checkpoint
that the configuration names. So every start has a directory of its own: links to sealed files, and a
`neuron_config.json` that names this NeuronModel's checkpoint and says what to do with shards.

Both read the checkpoint's own config.json with transformers 4, which ignores the form that transformers 5 writes, and
fails at a byte order mark or another encoding than UTF-8. In such cases they get a directory with links to the
checkpoint's files and a config.json in the older form, in UTF-8.
"""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from neuronmodel_api import names
from neuronmodel_worker.checkpoint import CONFIG_FILE as MODEL_CONFIG
from neuronmodel_worker.engines.nxdi.compiled import CONFIG_FILE, GRAPH_FILE, STRATEGY_FIELDS, CompiledFiles
from neuronmodel_worker.engines.nxdi.settings import Purpose
from neuronmodel_worker.failures import ConfigInvalid, SourceUnreadable
from neuronmodel_worker.io.temporary import within
from neuronmodel_worker.layouts.legacy_config import to_legacy
from neuronmodel_worker.stream import WEIGHTS

CHECKPOINT: Final = "checkpoint"
"""The checkpoint as the library reads it, where that is another directory than the source."""


def make_load_directory(
    scratch: Path,
    compiled: CompiledFiles,
    source: Path,
    purpose: Purpose,
    shards: Path | None,
    fields: Mapping[str, Any] | None = None,
) -> Path:
    """Make the directory below `scratch`; each start of a pod makes a new one. `fields` are NeuronConfig's, for a
    reader that gets no others. Raises OSError."""
    view = scratch / "view" / (os.environ.get(names.ENV_POD_UID) or f"process-{os.getpid()}")
    if view.exists():
        shutil.rmtree(view)
    view.mkdir(parents=True)
    (view / GRAPH_FILE).symlink_to(compiled.directory.absolute() / GRAPH_FILE)
    write_readable(source, view / CHECKPOINT)
    if shards is not None:
        (view / WEIGHTS).symlink_to(shards.absolute() / WEIGHTS, target_is_directory=True)
    (view / CONFIG_FILE).write_text(
        json.dumps(_config(compiled, checkpoint_of(view, source), purpose, fields or {}), indent=2, sort_keys=True)
        + "\n"
    )
    return view


def _config(compiled: CompiledFiles, source: Path, purpose: Purpose, fields: Mapping[str, Any]) -> dict[str, Any]:
    ranks = compiled.expected.ranks
    strategy = {name: fields[name] for name in STRATEGY_FIELDS if fields.get(name) is not None}
    of_start = {**strategy, **purpose.fields, "start_rank_id": ranks.start, "local_ranks_size": len(ranks)}
    neuron_config = {**compiled.config.get("neuron_config", {}), **of_start}
    return {**compiled.config, "_name_or_path": str(source), "neuron_config": neuron_config}


def library_path(path: Path) -> str:
    """A path as the library needs it, with a slash at the end."""
    return os.path.join(path, "")  # noqa: PTH118 - pathlib drops the slash


def checkpoint_of(view: Path, source: Path) -> Path:
    """The directory from which the library reads the checkpoint of a load directory."""
    readable = view / CHECKPOINT
    return readable if readable.exists() else source


@contextmanager
def readable(source: Path, scratch: Path) -> Iterator[Path]:
    """A checkpoint that the library can read, while a child runs. Raises OSError, and what `write_readable` raises."""
    with tempfile.TemporaryDirectory(prefix="checkpoint-", dir=within(scratch)) as directory:
        folder = Path(directory) / CHECKPOINT
        yield folder if write_readable(source, folder) else source


def write_readable(source: Path, folder: Path) -> bool:
    """Write a checkpoint that the library can read into `folder`, if the source is none. Returns whether it was
    written. Raises OSError, ConfigInvalid, LayoutRefused, SourceUnreadable."""
    file = source / MODEL_CONFIG
    try:
        content = file.read_bytes()
        config = json.loads(content)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise SourceUnreadable(file, error) from error
    except ValueError as error:
        raise ConfigInvalid(f"{file} is no JSON. Put the checkpoint's own config.json there.") from error
    translated = to_legacy(config, f"config.json in {source}") if isinstance(config, dict) else config
    if translated is config and _is_read_by_transformers(content):
        return False
    folder.mkdir()
    for each in source.absolute().iterdir():
        if each.name != MODEL_CONFIG:
            (folder / each.name).symlink_to(each)
    (folder / MODEL_CONFIG).write_text(json.dumps(translated, indent=2) + "\n")
    return True


def _is_read_by_transformers(content: bytes) -> bool:
    """Whether transformers can read the file: it takes UTF-8 without a byte order mark; `json.loads` takes other
    encodings too."""
    try:
        json.loads(content.decode())
    except ValueError:
        return False
    return True
