"""Files of a checkpoint that serving needs and sharding does not: warns about placeholders in their place."""

from collections.abc import Iterator
from dataclasses import replace

from neuronmodel_worker.checkpoint import GENERATION_FILE, refuse_wrong_content
from neuronmodel_worker.failures import WorkerFailure
from neuronmodel_worker.plan.streamed import StreamedPlan
from neuronmodel_worker.sources import WeightSource
from neuronmodel_worker.text.tokenizer_files import wrong_contents


def with_tokenizer_warnings(plan: StreamedPlan) -> StreamedPlan:
    """Returns the plan with warnings. Nothing is refused, since a host that shards may lack the tokenizer. Only the
    first bytes of each file are read."""
    texts = (
        f"{failure} Shards are made without it, and a NeuronModel with this checkpoint is not prepared."
        for failure in _stand_in_failures(plan.checkpoint.source)
    )
    return replace(plan, layout=replace(plan.layout, warnings=(*plan.warnings, *texts)))


def _stand_in_failures(source: WeightSource) -> Iterator[WorkerFailure]:
    yield from wrong_contents(source)
    try:
        refuse_wrong_content(source, GENERATION_FILE, may_be_empty=True)
    except WorkerFailure as failure:
        yield failure
