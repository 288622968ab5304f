"""`status.summary` says in one text what is wrong or goes on, and what to do."""

import pytest

from neuronmodel_api.reasons import Reason, plain
from neuronmodel_operator.status.summary import MAX_SUMMARY, summary
from tests.builders import neuron_model
from tests.unit.operator.simulated import Cluster, failing


@pytest.mark.parametrize(
    ("status", "reason", "progress", "load", "text"),
    [
        ("True", "Serving", None, "12.3s", "Serves (Serving): It is so. The latest start took 12.3s."),
        ("Unknown", "Loading", "Read 45%", None, "Under way (Loading): It is so. At work: Read 45%."),
        (
            "False",
            "ImagePullFailed",
            None,
            "12.3s",
            "Does not serve (ImagePullFailed): It is so. What to do: Correct the image or its pull secret.",
        ),
        ("False", "OfAnImage", None, None, "Does not serve (OfAnImage): It is so."),
        ("False", "WorkerCrashed", None, None, "Does not serve (WorkerCrashed): It is so."),
    ],
)
def test_it_says_what_is_wrong_or_goes_on(
    status: str, reason: str, progress: str | None, load: str | None, text: str
) -> None:
    assert summary(status, reason, "It is so.", progress, load) == text


def test_a_long_message_is_bounded() -> None:
    assert len(summary("False", "NotASource", "word " * 1000, None, None)) == MAX_SUMMARY


@pytest.mark.parametrize("reason", Reason)
def test_nothing_in_it_is_markdown(reason: Reason) -> None:
    for text in (plain(reason.meaning), plain(reason.remedy)):
        assert "`" not in text
        assert "](" not in text


def test_it_follows_the_condition_ready() -> None:
    cluster = Cluster.of(neuron_model("smol").on_cpu().with_artifacts_claim("store").build(), ("models", "store"))
    cluster.run_until_ready()
    assert (cluster.status.summary or "").startswith("Serves (Serving): 1 of 1 workers answer. The latest start took ")
    cluster.prepare = lambda config: failing("NotASource", message="There is nothing.")
    cluster.annotate("neuronmodel.dev/restart", "again")
    cluster.run(60)
    ready = cluster.condition()
    assert cluster.status.summary
    assert ready.message in cluster.status.summary
