"""What the operator's /metrics tells of each NeuronModel, and what it leaves out."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from neuronmodel_api.status import NeuronModelStatus
from neuronmodel_operator.cluster.failed_pass import PassFailure
from neuronmodel_operator.cluster.observe import ModelKey, parse_model
from neuronmodel_operator.runtime.model_metrics import ModelMetrics
from neuronmodel_operator.state.observed import ObservedModel
from neuronmodel_operator.state.plan import EventNote
from tests.builders import neuron_model

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
NEW = NeuronModelStatus()


class Page:
    """The page of metrics, and the time that it is scraped at."""

    def __init__(self, max_models: int = 1000) -> None:
        self.now = NOW
        self.held = {"demo"}
        self.models = ModelMetrics(lambda: self.now, lambda namespace: namespace in self.held, max_models)
        self.registry = CollectorRegistry()
        self.registry.register(self.models)

    def value(self, metric: str, **labels: str) -> float | None:
        return self.registry.get_sample_value(metric, {"namespace": "demo", "name": "smol", **labels})

    @property
    def names(self) -> set[str]:
        return {s.labels["name"] for family in self.registry.collect() for s in family.samples if "name" in s.labels}

    @property
    def num_left_out(self) -> float | None:
        return self.registry.get_sample_value("neuronmodel_operator_unshown_models")


def a_model(name: str = "smol", spec: dict[str, Any] | None = None, **status: Any) -> ObservedModel:
    raw = neuron_model(name).on_cpu().build()
    times = {"creationTimestamp": NOW.isoformat(), "generation": 1}
    raw["metadata"] |= {"namespace": "demo", "uid": f"uid-{name}", **times}
    raw["spec"] |= spec or {}
    return parse_model(raw | {"status": status})


def a_start(name: str, outcome: str = "Ready", seconds: int = 2, **fields: Any) -> dict[str, Any]:
    at = NOW.isoformat()
    phase = {"stage": "Serve", "name": "Read", "startedAt": at, "milliseconds": seconds * 1000}
    start = {"id": name, "cause": "PodReplaced", "outcome": outcome, "startedAt": at, **fields}
    return start if outcome == "Running" else start | {"totalMilliseconds": seconds * 1000, "phases": [phase]}


def condition(status: str, reason: str) -> dict[str, Any]:
    return {"type": "Ready", "status": status, "reason": reason, "lastTransitionTime": NOW.isoformat()}


def test_conditions_and_replicas_are_as_they_are_now() -> None:
    page = Page()
    worker = {"podName": "smol-1", "stage": "Serve", "state": "Ready"}
    page.models.saw(NEW, a_model(conditions=[condition("True", "Serving")], workers=[worker]), [])
    shown = {"condition": "Ready", "status": "True", "reason": "Serving"}
    assert page.value("neuronmodel_model_condition", **shown) == 1
    assert page.value("neuronmodel_model_replicas_wanted") == page.value("neuronmodel_model_replicas_ready") == 1
    page.models.saw(NEW, a_model(spec={"suspend": True}, conditions=[condition("False", "Suspended")]), [])
    assert page.value("neuronmodel_model_condition", **shown) is None
    assert page.value("neuronmodel_model_replicas_wanted") == page.value("neuronmodel_model_replicas_ready") == 0


def test_a_start_is_counted_when_it_ends_and_only_then() -> None:
    page = Page()
    before, running = a_model(), a_model(starts=[a_start("a", "Running")])
    page.models.saw(before.status, running, [])
    page.now += timedelta(seconds=7)
    assert page.value("neuronmodel_model_start_running_seconds") == 7
    counted = {"outcome": "Ready", "cause": "PodReplaced", "cache": "Hit"}
    assert page.value("neuronmodel_model_starts_total", **counted) is None
    ended = a_model(starts=[a_start("a", seconds=9, cache="Hit")])
    page.models.saw(running.status, ended, [])
    page.models.saw(ended.status, ended, [])
    assert page.value("neuronmodel_model_starts_total", **counted) == 1
    assert page.value("neuronmodel_model_last_load_seconds") == 9
    assert page.value("neuronmodel_model_start_running_seconds") is None


def test_the_last_load_stays_when_starts_that_failed_have_taken_its_place() -> None:
    """The alert that it answers no more asks whether it ever has."""
    page = Page()
    page.models.saw(NEW, a_model(lastLoad="12.3s", starts=[a_start(f"f{n}", "Failed") for n in range(5)]), [])
    assert page.value("neuronmodel_model_last_load_seconds") == 12.3
    page.models.saw(NEW, a_model(), [])
    assert page.value("neuronmodel_model_last_load_seconds") is None


def test_passes_that_fail_are_shown_as_the_neuronmodel_says_it() -> None:
    """Of one that never had a pass that did not fail too."""
    page = Page()
    page.models.saw(NEW, a_model(conditions=[condition("True", "Serving")]), [])
    for name in ("smol", "unreadable"):
        page.models.failed(ModelKey("demo", name, f"uid-{name}"), PassFailure("False", "SpecUnreadable", "It is."))
        shown = {"condition": "Ready", "status": "False", "reason": "SpecUnreadable", "name": name}
        assert page.value("neuronmodel_model_condition", **shown) == 1
    assert page.value("neuronmodel_model_condition", condition="Ready", status="True", reason="Serving") is None


def test_starts_from_before_this_operator_are_not_counted() -> None:
    page = Page()
    model = a_model(starts=[a_start("a"), a_start("b", "Failed")])
    page.models.saw(model.status, model, [])
    assert not any(
        sample.name == "neuronmodel_model_starts_total"
        for family in page.registry.collect()
        for sample in family.samples
    )


def test_a_slower_start_is_counted_by_the_phase_that_grew() -> None:
    page = Page()
    others = [a_start("b"), a_start("c"), a_start("d")]
    slow = a_start("a", seconds=9, notes=["SlowerThanUsual: This start was slow."])
    page.models.saw(a_model(starts=others).status, a_model(starts=[slow, *others]), [])
    assert page.value("neuronmodel_model_slower_starts_total", phase="Read") == 1


def test_words_of_a_users_image_are_no_labels() -> None:
    page = Page()
    events = [EventNote("Warning", reason, "") for reason in ("MadeUp", "OfAnImage", "ArtifactQuarantined")]
    model = a_model(conditions=[condition("False", "MadeUp")], artifacts={"cache": "Miss", "missedBecause": "FullMoon"})
    page.models.saw(NEW, model, events)
    assert page.value("neuronmodel_model_events_total", type="Warning", reason="Other") == 2
    assert page.value("neuronmodel_model_events_total", type="Warning", reason="ArtifactQuarantined") == 1
    assert page.value("neuronmodel_model_condition", condition="Ready", status="False", reason="Other") == 1
    assert page.value("neuronmodel_model_cache", cache="Miss", because="Other") == 1


@pytest.mark.parametrize("because", ["NewVolume", "NotThere", "SourceChanged", "InputsChanged", "Damaged"])
def test_why_prepare_had_to_build_is_shown(because: str) -> None:
    page = Page()
    page.models.saw(NEW, a_model(artifacts={"cache": "Miss", "missedBecause": because}), [])
    assert page.value("neuronmodel_model_cache", cache="Miss", because=because) == 1


def test_a_thousand_are_shown_and_what_is_left_out_is_counted() -> None:
    page = Page(max_models=2)
    for name in ("one", "two", "three"):
        page.models.saw(NEW, a_model(name), [])
    assert page.names == {"one", "two"}
    assert page.num_left_out == 1
    page.models.gone("uid-one")
    page.models.saw(NEW, a_model("three"), [])
    assert page.names == {"two", "three"}
    assert page.num_left_out == 0


def test_a_namespace_where_another_operator_acts_is_that_operators_to_show() -> None:
    page = Page()
    page.models.saw(NEW, a_model(), [])
    assert page.names == {"smol"}
    page.held.clear()
    assert page.names == set()
