"""From `kubectl apply` to an answer, with a real model: what users see of it."""

from neuronmodel_api.status import Cause, Start
from tests.levels import answers

from .accounting import phases
from .capital import PROMPT, Capital
from .chat import completion
from .columns import COLUMNS, rows


def test_both_strategies_answer_as_transformers_does(capital: Capital) -> None:
    """One of them as on the oldest processor."""
    (golden,) = (answer for answer in answers.ANSWERS if answer.prompt == PROMPT)
    for model in (capital.kept, capital.sliced):
        assert completion(model, PROMPT, num_tokens=len(golden.tokens)) == golden.text, model.name


def test_the_first_start_tells_where_its_time_went(capital: Capital) -> None:
    for start, strategy in ((capital.first_of_kept, "ShardOnCompile"), (capital.first_of_sliced, "ShardOnLoad")):
        assert (start.cause, start.strategy, start.cache) == (Cause.CREATED, strategy, "Miss")
        assert start.node_name == "plain"
        # HandedOver may be shorter than the second in which Kubernetes tells a pod's creation, and is not there then.
        assert {"Queued", "Starting", "Booted", "SourceOpened", "Announced"} <= set(phases(start))
        stages = [phase.stage for phase in start.phases]
        assert stages == sorted(stages), "prepare comes first"
        assert {stage.value for stage in stages} == {"Prepare", "Serve"}
        served = [phase.name for phase in start.phases if phase.stage.value == "Serve"]
        assert served[0] == "HandedOver" or served[:2] == ["Queued", "Starting"]
    assert _stages(capital.first_of_kept, "Sharded") == ["Prepare"]
    assert _stages(capital.first_of_sliced, "Sharded") == ["Serve"]
    for start in (capital.first_of_kept, capital.first_of_sliced):
        assert _stages(start, "Compiled") == ["Prepare"]


def _stages(start: Start, phase: str) -> list[str]:
    return [found.stage.value for found in start.phases if found.name == phase]


def test_get_shows_one_line_that_says_it_all(capital: Capital) -> None:
    shown = rows(capital.room.cluster, capital.room.namespace)
    assert list(shown["kept"]) == COLUMNS
    kept, sliced = shown["kept"], shown["sliced"]
    assert (kept["READY"], kept["STRATEGY"], kept["NODE"]) == ("True", "ShardOnCompile", "plain")
    assert (sliced["READY"], sliced["STRATEGY"], sliced["NODE"]) == ("True", "ShardOnLoad", "plain")
    total = capital.kept.last_start.total_milliseconds if capital.kept.last_start else None
    assert total is not None
    assert float(kept["LOAD"].removesuffix("s")) == round(total / 1000, 1)


def test_get_wide_shows_more(capital: Capital) -> None:
    shown = rows(capital.room.cluster, capital.room.namespace, "--output=wide")
    assert set(COLUMNS) < set(shown["kept"])
    assert list(shown["kept"])[:4] == ["NAME", "READY", "REASON", "MESSAGE"]
    assert shown["kept"]["MESSAGE"] == "1 of 1 workers answer."


def test_wait_works_on_the_condition(capital: Capital) -> None:
    output = capital.room.cluster.kubectl(
        "wait",
        "--for=condition=Ready",
        "nm/kept",
        "nm/sliced",
        f"--namespace={capital.room.namespace}",
        "--timeout=10s",
    )
    assert output.count("condition met") == 2


def test_describe_tells_the_story_in_events(capital: Capital) -> None:
    described = capital.room.cluster.kubectl("describe", "nm", "kept", f"--namespace={capital.room.namespace}")
    events = described.partition("\nEvents:")[2]
    assert "Prepar" in events
    assert "Ready" in events


def test_explain_reads_like_a_manual(capital: Capital) -> None:
    explained = capital.room.cluster.kubectl("explain", "nm.spec.sharding")
    assert "ShardOnCompile" in explained
