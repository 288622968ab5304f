"""What stands in the status when a pass came to none."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pydantic import ValidationError

from neuronmodel_api.spec import NeuronModelSpec
from neuronmodel_operator.cluster.client import ApiError
from neuronmodel_operator.cluster.failed_pass import PassFailure, failure_of, status_patch, unanswered

NOW = datetime(2026, 1, 1, 12, 0, 30, tzinfo=UTC)
SINCE = NOW - timedelta(seconds=3)
FAILURE = PassFailure("Unknown", "CannotLook", "The API server is on fire.")


def raw(status: Any = None, generation: int = 2) -> dict[str, Any]:
    return {"metadata": {"generation": generation}, "status": status or {}}


def ready(status: str, reason: str, generation: int = 2) -> dict[str, Any]:
    return {
        "type": "Ready",
        "status": status,
        "reason": reason,
        "message": "",
        "lastTransitionTime": "2026-01-01T11:00:00Z",
        "observedGeneration": generation,
    }


def test_without_any_status_there_is_a_reason_and_a_sentence_with_since_when() -> None:
    patch = status_patch(raw(), FAILURE, SINCE, NOW)
    assert patch is not None
    (condition,) = patch["conditions"]
    assert (condition["status"], condition["reason"]) == ("Unknown", "CannotLook")
    assert "on fire. Since 2026-01-01T12:00:27Z" in condition["message"]
    assert condition["lastTransitionTime"] == "2026-01-01T12:00:30Z"


def test_it_is_written_once() -> None:
    patch = status_patch(raw(), FAILURE, SINCE, NOW)
    assert patch is not None
    assert status_patch(raw(patch), FAILURE, SINCE, NOW + timedelta(minutes=5)) is None


def test_who_was_ready_is_believed_for_a_moment_and_not_for_longer() -> None:
    status = {"observedGeneration": 2, "conditions": [ready("True", "Serving"), {"type": "Loaded", "status": "True"}]}
    assert status_patch(raw(status), FAILURE, SINCE, NOW) is None
    patch = status_patch(raw(status), FAILURE, NOW - timedelta(seconds=10), NOW)
    assert patch is not None
    assert [(c["type"], c["status"]) for c in patch["conditions"]] == [("Ready", "Unknown"), ("Loaded", "True")]


def test_a_pending_answer_is_reported_only_by_a_status_that_says_nothing_yet() -> None:
    waiting = unanswered(5)
    assert status_patch(raw(), waiting, SINCE, NOW) is not None
    status = {"observedGeneration": 2, "conditions": [ready("False", "WebhookFailed")]}
    assert status_patch(raw(status), waiting, SINCE, NOW) is None
    status["observedGeneration"] = 1
    assert status_patch(raw(status), waiting, SINCE, NOW) is not None, "of a former spec"


def test_who_was_ready_for_a_former_spec_is_not_believed() -> None:
    status = {"observedGeneration": 1, "conditions": [ready("True", "Serving", 1)]}
    assert status_patch(raw(status), FAILURE, SINCE, NOW) is not None


def test_when_it_became_so_stays() -> None:
    patch = status_patch(raw({"conditions": [ready("Unknown", "Loading")]}), FAILURE, SINCE, NOW)
    assert patch is not None
    assert patch["conditions"][0]["lastTransitionTime"] == "2026-01-01T11:00:00Z"


@pytest.mark.parametrize("status", ["text", None])
def test_a_garbled_condition_is_left_out(status: Any) -> None:
    assert status_patch(raw({"conditions": [status]}), FAILURE, SINCE, NOW) is not None


def test_a_spec_that_cannot_be_read_is_named_by_its_place() -> None:
    with pytest.raises(ValidationError) as caught:
        NeuronModelSpec.model_validate({"model": {}, "parallelism": {"tensorParallelDegree": "many"}})
    failure = failure_of(caught.value)
    assert (failure.status, failure.reason) == ("False", "SpecUnreadable")
    assert "parallelism.tensorParallelDegree" in failure.message


def test_every_error_has_a_reason() -> None:
    assert failure_of(ApiError(500, "InternalError", "no")).reason == "CannotLook"
    assert failure_of(ApiError(403, "Forbidden", "no")).reason == "NotPermitted"
    assert failure_of(KeyError("x")).reason == "OperatorFailed"
