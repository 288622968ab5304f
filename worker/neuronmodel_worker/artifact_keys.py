"""Which artifacts a NeuronModel needs: both keys, computed alike by the one who builds and the one who serves."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from neuronmodel_api.config import Engine as EngineName
from neuronmodel_api.config import Strategy, Weights, WorkerConfig
from neuronmodel_worker.checkpoint import Checkpoint
from neuronmodel_worker.engines import ModelEngine
from neuronmodel_worker.failures import WithoutLayout
from neuronmodel_worker.plan.native import NativePlan, make_native_plan
from neuronmodel_worker.plan.streamed import ModelPlan, StreamedPlan, make_plan
from neuronmodel_worker.store import compiled_key, shards_inputs, shards_key
from neuronmodel_worker.store.source_records import OUTLINE, outline
from neuronmodel_worker.stream.rankfile import rank_file_format


@dataclass(frozen=True)
class Wanted:
    """`shards_key` is None where every start shards anew."""

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
        """What the manifest of the shards says beside their files: whoever seals them says the same."""
        checkpoint = plan.checkpoint
        return {
            "inputs": self.shards_inputs,
            "source_fingerprint": checkpoint.fingerprint,
            OUTLINE: outline(checkpoint),
        }


def plan_for(config: WorkerConfig, checkpoint: Checkpoint) -> StreamedPlan | NativePlan:
    """By whoever is to shard. Raises a BadInput for a checkpoint or flags that cannot be right, and says what lets NxD
    Inference shard what has no layout of ours."""
    if config.weights is Weights.NATIVE:
        return make_native_plan(checkpoint, config.neuron_config, config.model_type)
    try:
        return make_plan(checkpoint, config.neuron_config, config.model_type)
    except WithoutLayout as refusal:
        native = WithoutLayout.IN_A_POD if config.engine is EngineName.NEURON else None
        raise type(refusal)(refusal.what, refusal.remedy, native) from None


def wanted_artifacts(config: WorkerConfig, plan: ModelPlan, engine: ModelEngine, content: str | None = None) -> Wanted:
    """`content` is that of the plan's source; None: named after its fingerprint. With Auto there is a key of shards.

    Raises a BadInput for what the engine cannot do.
    """
    graph = {
        "engine": config.engine,
        "version": engine.version(),
        "graph": engine.graph_inputs(plan, config.neuron_config),
    }
    source, layout = content or plan.checkpoint.fingerprint, plan.layout_inputs()
    if config.weights is Weights.NATIVE:  # its code makes the shards: our layout's revision says nothing of them
        layout["library"] = engine.version()
    kept = config.strategy is not Strategy.SHARD_ON_LOAD
    return Wanted(
        graph_inputs=graph,
        shards_inputs=shards_inputs(source, layout),
        compiled_key=compiled_key(graph),
        shards_key=shards_key(source, layout) if kept else None,
    )


def rank_metadata(key: str) -> dict[str, str]:
    """What stands in the header of every rank file of the set: so a file of another set is found out by its header."""
    return {"neuronmodel.shards": key}


def shard_bytes(plan: ModelPlan, key: str) -> int:
    """Of all rank files of the set with that key, headers included; an estimate where NxD Inference shards."""
    if not isinstance(plan, StreamedPlan):
        return plan.output_bytes
    return rank_file_format(plan.tensors, plan.ranks.start, rank_metadata(key)).nbytes * len(plan.ranks)
