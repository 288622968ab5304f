"""What a start repeats and what it does not, and how many workers there are."""

from neuronmodel_api.conditions import ConditionType
from neuronmodel_api.status import Cause

from .accounting import asking, phases
from .capital import PROMPT, Capital
from .chat import completion
from .columns import rows
from .neuronmodels import Expected, wait_for_starts
from .waiting import eventually


def test_a_second_start_shards_only_without_kept_shards_and_compiles_never(capital: Capital) -> None:
    models = (capital.kept, capital.sliced)
    answers = [completion(model, PROMPT) for model in models]
    expected = []
    for model in models:
        before = model.finished_start()
        assert before is not None
        with asking() as since:
            model.cluster.delete("Pod", model.serving_pod()["metadata"]["name"], model.namespace)
        expected.append(Expected(model, since, before.id))
    of_kept, of_sliced = wait_for_starts(*expected)
    assert {of_kept.cause, of_sliced.cause} == {Cause.POD_REPLACED}
    assert not {"Compiled", "Sharded"} & set(phases(of_kept))
    assert "Read" in phases(of_kept)
    assert "Sharded" in phases(of_sliced)
    assert "Compiled" not in phases(of_sliced)
    for model, start in ((capital.kept, of_kept), (capital.sliced, of_sliced)):
        shown = rows(model.cluster, model.namespace)[model.name]
        assert start.total_milliseconds is not None
        assert (shown["CACHE"], shown["LOAD"]) == ("Hit", f"{start.total_milliseconds / 1000:.1f}s")
        assert model.status.artifacts is not None
        assert model.status.artifacts.cache == "Miss", "what the latest prepare found is still reported there"
    assert [completion(model, PROMPT) for model in models] == answers


def test_scaling_to_zero_frees_the_node_and_to_one_serves_again(capital: Capital) -> None:
    model = capital.kept
    before = model.finished_start()
    assert before is not None
    scale(capital, 0)
    model.wait_for_condition(ConditionType.READY, "False")
    eventually(lambda: not model.children("Pod", "serve"), what="the worker to go", instead=model.story)
    scale(capital, 1)
    model.wait_for_start(after=before.id)
    assert "Paris" in completion(model, PROMPT)


def test_two_workers_on_a_volume_for_one_node_are_refused_with_a_reason(capital: Capital) -> None:
    model = capital.kept
    pod = model.serving_pod()["metadata"]["uid"]
    scale(capital, 2)
    try:
        condition = model.wait_for_reason("ReplicasNeedSharedVolume")
        assert "kept-artifacts" in condition.message
        assert "ReadWriteMany" in condition.message
    finally:
        scale(capital, 1)
    model.wait_for_condition(ConditionType.READY, "True")
    assert model.serving_pod()["metadata"]["uid"] == pod, "the worker that was there was restarted"


def scale(capital: Capital, replicas: int) -> None:
    model = capital.kept
    model.cluster.kubectl("scale", "nm", model.name, f"--replicas={replicas}", f"--namespace={model.namespace}")
