"""The files of a compiled model: the library's graph and configuration, without what names a checkpoint or a strategy,
and `neuronmodel.json`, which describes the tensors of its ranks."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from neuronmodel_worker.engines.nxdi.weight_loading import ExpectedTensors
from neuronmodel_worker.failures import ArtifactDamaged
from neuronmodel_worker.plan.streamed import ModelPlan, StreamedPlan

GRAPH_FILE = "model.pt"
CONFIG_FILE = "neuron_config.json"
DESCRIPTION_FILE = "neuronmodel.json"

# Fields of neuron_config.json: the library prefers `_name_or_path` to the path it is given, where that exists.
CHECKPOINT_FIELDS = frozenset({"_name_or_path", "_commit_hash"})
STRATEGY_FIELDS = frozenset({"save_sharded_checkpoint", "skip_sharding", "quantized_checkpoints_path"})
# The fields of a saved enumeration member, which NeuronConfig does not read back: a default logical_nc_config is one.
ENUMERATION_FIELDS = frozenset({"_name_", "_value_"})


class TensorDescription(BaseModel):
    """A tensor of every rank."""

    model_config = ConfigDict(frozen=True)

    name: str
    dtype: str
    shape: tuple[int, ...]


class Description(BaseModel):
    """neuronmodel.json. `tensors` is None where NxD Inference lays them out itself, so that they are not checked."""

    model_config = ConfigDict(frozen=True)

    format: int = 1
    engine: str
    model_type: str
    first_rank: int
    ranks: int
    tensors: tuple[TensorDescription, ...] | None
    rank_tensors: tuple[str, ...] = ()


@dataclass(frozen=True)
class CompiledFiles:
    """A compiled model in a directory."""

    directory: Path
    description: Description
    config: Mapping[str, Any]
    """The content of neuron_config.json."""

    @property
    def expected(self) -> ExpectedTensors:
        found = self.description
        forms = None if found.tensors is None else {each.name: (each.dtype, each.shape) for each in found.tensors}
        ranks = range(found.first_rank, found.first_rank + found.ranks)
        return ExpectedTensors(self.directory, ranks, forms, found.rank_tensors)


def describe(plan: ModelPlan, engine: str, model_type: str) -> Description:
    tensors = (
        tuple(TensorDescription(name=each.name, dtype=each.dtype, shape=each.shape) for each in plan.tensors)
        if isinstance(plan, StreamedPlan)
        else None
    )
    return Description(
        engine=engine,
        model_type=model_type,
        first_rank=plan.ranks.start,
        ranks=len(plan.ranks),
        tensors=tensors,
        rank_tensors=tuple(plan.rank_tensors) if isinstance(plan, StreamedPlan) else (),
    )


def complete(directory: Path, description: Description, source: Path) -> None:
    """Make what the library has written into `directory` usable for every checkpoint of the architecture. Raises
    OSError, and ValueError where the library's configuration is no JSON."""
    file = directory / CONFIG_FILE
    config = _without_checkpoint(json.loads(file.read_bytes()), str(source))
    file.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    (directory / DESCRIPTION_FILE).write_text(description.model_dump_json(indent=1) + "\n")


def _without_checkpoint(value: Any, source: str) -> Any:
    if isinstance(value, dict) and value.keys() >= ENUMERATION_FIELDS:
        return _without_checkpoint(value["_value_"], source)
    if isinstance(value, dict):
        kept = {name: each for name, each in value.items() if name not in CHECKPOINT_FIELDS | STRATEGY_FIELDS}
        return {name: _without_checkpoint(each, source) for name, each in kept.items() if not _is_path(each, source)}
    if isinstance(value, list):
        return [_without_checkpoint(each, source) for each in value]
    return value


def _is_path(value: Any, source: str) -> bool:
    return isinstance(value, str) and value.rstrip("/") == source.rstrip("/")


def read_compiled(directory: Path) -> CompiledFiles:
    """Read a compiled model. Raises ArtifactDamaged."""
    try:
        description = Description.model_validate_json((directory / DESCRIPTION_FILE).read_bytes())
        config = json.loads((directory / CONFIG_FILE).read_bytes())
        (directory / GRAPH_FILE).stat()
    except (OSError, ValueError, ValidationError) as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise ArtifactDamaged(directory, f"it is no compiled model of the Neuron engine ({first})") from error
    return CompiledFiles(directory, description, config)
