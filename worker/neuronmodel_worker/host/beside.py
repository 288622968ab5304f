"""Files of a checkpoint that shards are not made from and that serving needs: what lies in their place is warned of."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from neuronmodel_worker.checkpoint import GENERATION_FILE, refuse_stand_ins
from neuronmodel_worker.failures import WorkerFailure
from neuronmodel_worker.plan import Plan
from neuronmodel_worker.text.files import NAMES


def with_warnings_of_text(plan: Plan) -> Plan:
    """Not refused: a host that shards may have no tokenizer beside the weights. First bytes alone are read."""
    warnings = (*plan.warnings, *_warnings(plan.checkpoint.path))
    return replace(plan, layout=replace(plan.layout, warnings=warnings))


def _warnings(directory: Path) -> Iterator[str]:
    for name in (*NAMES, GENERATION_FILE):
        try:
            refuse_stand_ins(directory / name, may_be_empty=name == GENERATION_FILE or name.endswith(".jinja"))
        except WorkerFailure as failure:
            yield f"{failure} Shards are made without it, and a NeuronModel with this checkpoint is not prepared."
