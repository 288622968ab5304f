"""Which artifacts a NeuronModel needs: both keys, computed in the same way by the worker that builds and the one that
serves."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from neuronmodel_api.config import Engine as EngineName
from neuronmodel_api.config import Strategy, Weights, WorkerConfig
from neuronmodel_worker.checkpoint import Checkpoint
from neuronmodel_worker.engines import ModelEngine
from neuronmodel_worker.engines.installed_server import key_inputs, required_server
from neuronmodel_worker.failures import WithoutLayout
from neuronmodel_worker.plan.native import NativePlan, make_native_plan
from neuronmodel_worker.plan.streamed import ModelPlan, StreamedPlan, make_plan
from neuronmodel_worker.store import compiled_key, shards_inputs, shards_key
from neuronmodel_worker.store.source_records import OUTLINE, outline
from neuronmodel_worker.stream.rankfile import rank_file_format


@dataclass(frozen=True)
class Wanted:
    """The keys and what they are made from. `shards_key` is None if every start shards the checkpoint itself."""

    graph_inputs: Mapping[str, object]
    shards_inputs: Mapping[str, object]
    compiled_key: str
    shards_key: str | None

    @property
    def keys(self) -> tuple[str, ...]:
        return (self.compiled_key, self.shards_key) if self.shards_key else (self.compiled_key,)

    def without_shards(self) -> "Wanted":
        return replace(self, shards_key=None)

    def shards_manifest(self, plan: ModelPlan) -> dict[str, object]:
        """Returns the fields of the shards' manifest other than its files; they are the same whoever seals the set."""
        checkpoint = plan.checkpoint
        return {
            "inputs": self.shards_inputs,
            "source_fingerprint": checkpoint.fingerprint,
            OUTLINE: outline(checkpoint),
        }


def plan_for(config: WorkerConfig, checkpoint: Checkpoint) -> StreamedPlan | NativePlan:
    """Makes the plan of the shards: ours, or NxD Inference's.

    Raises a BadInput for a checkpoint or flags that cannot be right. If there is no layout of ours, it says how to let
    NxD Inference shard the model.
    """
    if config.weights is Weights.NATIVE:
        return make_native_plan(checkpoint, config.neuron_config, config.model_type)
    try:
        return make_plan(checkpoint, config.neuron_config, config.model_type)
    except WithoutLayout as refusal:
        native = WithoutLayout.IN_A_POD if config.engine is EngineName.NEURON else None
        raise type(refusal)(refusal.what, refusal.remedy, native) from None


def wanted_artifacts(config: WorkerConfig, plan: ModelPlan, engine: ModelEngine, content: str | None = None) -> Wanted:
    """Returns the keys. `content` is the source's; if it is None, the fingerprint takes its place. Auto has a key of
    shards.

    Raises a BadInput for what the engine or the server cannot do.
    """
    graph = {
        "engine": config.engine,
        "version": engine.version(),
        "graph": engine.graph_inputs(plan, config.neuron_config),
        **key_inputs(required_server(config)),
    }
    source, layout = content or plan.checkpoint.fingerprint, plan.layout_inputs()
    if config.weights is Weights.NATIVE:  # its code makes the shards, so its version determines them
        layout["library"] = engine.version()
    kept = config.strategy is not Strategy.SHARD_ON_LOAD
    return Wanted(
        graph_inputs=graph,
        shards_inputs=shards_inputs(source, layout),
        compiled_key=compiled_key(graph),
        shards_key=shards_key(source, layout) if kept else None,
    )


def rank_metadata(key: str) -> dict[str, str]:
    """Returns the metadata in the header of each of the set's rank files, by which a file of another set is
    recognized."""
    return {"neuronmodel.shards": key}


def shard_bytes(plan: ModelPlan, key: str) -> int:
    """Returns the size of all rank files of the set, headers included; an estimate if NxD Inference shards."""
    if not isinstance(plan, StreamedPlan):
        return plan.output_bytes
    return rank_file_format(plan.tensors, plan.ranks.start, rank_metadata(key)).nbytes * len(plan.ranks)
