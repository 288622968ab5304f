"""What the conditions of a NeuronModel say, as the API server has it."""

from typing import Any

Object = dict[str, Any]


def condition(model: Object, kind: str) -> Object:
    """Empty if there is none."""
    conditions = (model.get("status") or {}).get("conditions", ())
    return next((dict(each) for each in conditions if each["type"] == kind), {})


def is_serving(model: Object | None) -> bool:
    """What is asked for now."""
    if model is None:
        return False
    ready = condition(model, "Ready")
    found = (ready.get("status"), ready.get("reason"), ready.get("observedGeneration"))
    return found == ("True", "Serving", model["metadata"]["generation"])


def summary(model: Object) -> str:
    conditions = (model.get("status") or {}).get("conditions", ())
    return "; ".join(f"{c['type']} {c['status']} {c['reason']}: {c.get('message')}" for c in conditions)
