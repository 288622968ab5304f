"""The files of a compiled model: the library's graph and configuration, freed of what names a checkpoint or a
strategy, and `neuronmodel.json`, which says what its ranks must hold."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from neuronmodel_worker.engines.nxdi.weight_loading import ExpectedTensors
from neuronmodel_worker.failures import ArtifactDamaged
from neuronmodel_worker.plan.streamed import ModelPlan, Plan

GRAPH_FILE = "model.pt"
CONFIG_FILE = "neuron_config.json"
DESCRIPTION_FILE = "neuronmodel.json"

# Of neuron_config.json: the library prefers `_name_or_path` to the path it is given, where that exists.
OF_CHECKPOINT = frozenset({"_name_or_path", "_commit_hash"})
OF_STRATEGY = frozenset({"save_sharded_checkpoint", "skip_sharding", "quantized_checkpoints_path"})
# A member of one, as NeuronConfig saves it and does not take it back: so is a logical_nc_config that nobody gave.
OF_AN_ENUMERATION = frozenset({"_name_", "_value_"})


class TensorDescription(BaseModel):
    model_config = ConfigDict(frozen=True)

    name: str
    dtype: str
    shape: tuple[int, ...]


class Description(BaseModel):
    """`tensors` None: NxD Inference lays them out itself, and they are not checked."""

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
    directory: Path
    description: Description
    config: Mapping[str, Any]
    """neuron_config.json."""

    @property
    def expected(self) -> ExpectedTensors:
        said = self.description
        forms = None if said.tensors is None else {each.name: (each.dtype, each.shape) for each in said.tensors}
        ranks = range(said.first_rank, said.first_rank + said.ranks)
        return ExpectedTensors(self.directory, ranks, forms, said.rank_tensors)


def describe(plan: ModelPlan, engine: str, model_type: str) -> Description:
    tensors = (
        tuple(TensorDescription(name=each.name, dtype=each.dtype, shape=each.shape) for each in plan.tensors)
        if isinstance(plan, Plan)
        else None
    )
    return Description(
        engine=engine,
        model_type=model_type,
        first_rank=plan.ranks.start,
        ranks=len(plan.ranks),
        tensors=tensors,
        rank_tensors=tuple(plan.rank_tensors) if isinstance(plan, Plan) else (),
    )


def complete(directory: Path, description: Description, source: Path) -> None:
    """Of what the library put into `directory`, make a set that any checkpoint of that architecture can be served
    with. Raises OSError, and ValueError where the library's configuration is none."""
    file = directory / CONFIG_FILE
    config = _freed(json.loads(file.read_bytes()), str(source))
    file.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    (directory / DESCRIPTION_FILE).write_text(description.model_dump_json(indent=1) + "\n")


def _freed(value: Any, source: str) -> Any:
    if isinstance(value, dict) and value.keys() >= OF_AN_ENUMERATION:
        return _freed(value["_value_"], source)
    if isinstance(value, dict):
        kept = {name: each for name, each in value.items() if name not in OF_CHECKPOINT | OF_STRATEGY}
        return {name: _freed(each, source) for name, each in kept.items() if not _names(each, source)}
    if isinstance(value, list):
        return [_freed(each, source) for each in value]
    return value


def _names(value: Any, source: str) -> bool:
    return isinstance(value, str) and value.rstrip("/") == source.rstrip("/")


def read_compiled(directory: Path) -> CompiledFiles:
    """Raises ArtifactDamaged."""
    try:
        description = Description.model_validate_json((directory / DESCRIPTION_FILE).read_bytes())
        config = json.loads((directory / CONFIG_FILE).read_bytes())
        (directory / GRAPH_FILE).stat()
    except (OSError, ValueError, ValidationError) as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise ArtifactDamaged(directory, f"it is no compiled model of the Neuron engine ({first})") from error
    return CompiledFiles(directory, description, config)
