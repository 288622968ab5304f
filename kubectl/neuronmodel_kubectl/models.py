"""NeuronModels as they were read, and what is derived from one for several screens."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from pydantic import ValidationError

from neuronmodel_api import names
from neuronmodel_api.conditions import ConditionType
from neuronmodel_api.phases import WAITS
from neuronmodel_api.reasons import Reason
from neuronmodel_api.spec import NeuronModelSpec
from neuronmodel_api.status import Condition, NeuronModelStatus, Start
from neuronmodel_kubectl.cluster import MODELS, Cluster, Object
from neuronmodel_kubectl.failures import PluginError

_ASKED_FOR: Final = frozenset({Reason.SUSPENDED, Reason.SCALED_TO_ZERO, Reason.TERMINATING})


@dataclass(frozen=True)
class ReadModel:
    """One NeuronModel."""

    raw: Object
    spec: NeuronModelSpec
    status: NeuronModelStatus

    @property
    def name(self) -> str:
        return str(self.raw["metadata"]["name"])

    @property
    def namespace(self) -> str:
        return str(self.raw["metadata"]["namespace"])

    @property
    def created_at(self) -> datetime:
        return datetime.fromisoformat(self.raw["metadata"]["creationTimestamp"])

    @property
    def ready(self) -> Condition | None:
        return self.status.condition(ConditionType.READY)

    @property
    def is_unhandled(self) -> bool:
        """Whether no operator has looked at the present spec."""
        return bool(self.status.observed_generation != self.raw["metadata"].get("generation"))

    @property
    def pod_selector(self) -> str:
        return f"{names.LABEL_MODEL}={self.name}"


def read_models(cluster: Cluster) -> list[ReadModel]:
    return [parsed(raw) for raw in cluster.items(MODELS)]


def read_model(cluster: Cluster, name: str) -> ReadModel:
    """Raises PluginError for one that is not there or can't be read."""
    return parsed(cluster.json("get", MODELS, name))


def parsed(raw: Object) -> ReadModel:
    try:
        return ReadModel(
            raw,
            NeuronModelSpec.model_validate(raw["spec"]),
            NeuronModelStatus.model_validate(raw.get("status") or {}),
        )
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"]))
        name = f"{raw['metadata']['namespace']}/{raw['metadata']['name']}"
        raise PluginError(
            f"NeuronModel {name} is of another version than this command reads: at {place}, {first['msg']}. Use the "
            "command of the operator's version."
        ) from error


def load_seconds(start: Start, now: datetime) -> float:
    """How long a start took, or has taken so far, without the time that it waited for somebody."""
    waited = sum(phase.milliseconds for phase in start.phases if phase.name in WAITS)
    total = start.total_milliseconds
    if total is None:
        total = max(round((now - start.started_at).total_seconds() * 1000), sum(p.milliseconds for p in start.phases))
    return (total - waited) / 1000


def now() -> datetime:
    return datetime.now(UTC)


def wrong_conditions(model: ReadModel) -> Sequence[Condition]:
    """What is in the way, the cause before what follows from it: conditions that are False, but for UpdateAvailable,
    whose False is as it should be, and for what the user asked for."""
    wrong = [
        condition
        for condition in model.status.conditions
        if condition.status == "False"
        and condition.type is not ConditionType.UPDATE_AVAILABLE
        and condition.reason not in _ASKED_FOR
    ]
    others = [condition for condition in wrong if condition.type is not ConditionType.READY]
    return others or wrong
