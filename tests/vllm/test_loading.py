"""What our loader puts into a real vLLM: its answers are those of vLLM's own loader, to the last bit."""

from datetime import timedelta
from typing import Any

import pytest

from tests.unit.worker.scratch_cache.test_start import copied
from tests.vllm.places import VllmPlace, answers

OF_A_START = {"ShardOnCompile": "Read", "ShardOnLoad": "Sharded"}


@pytest.mark.parametrize(("name", "degree"), [("smollm", 1), ("tiny", 2)])
def test_answers_are_those_of_vllm_s_own_loader(name: str, degree: int, request: pytest.FixtureRequest) -> None:
    place: VllmPlace = request.getfixturevalue(name)
    with place.own_loader(degree) as url:
        expected = answers(url)
    for strategy, phase in OF_A_START.items():
        with place.serving(strategy=strategy) as worker:
            assert answers(worker.url) == expected, strategy
            report = worker.status()
        names = [each.name for each in report.phases]
        assert names[-4:] == ["ServerImported", phase, "DeviceLoaded", "ServerStarted"]
        assert report.tier == ("Artifacts" if phase == "Read" else "Source")
        assert next(each.bytes for each in report.phases if each.name == phase)
        assert report.ready_at is not None
        whole = timedelta(milliseconds=sum(each.milliseconds for each in report.phases))
        assert whole == report.ready_at - report.started_at


@pytest.mark.parametrize("flags", [{"fused_qkv": True, "vocab_parallel": True}, {"tp_degree": 1}])
def test_other_layouts_of_the_same_weights_answer_too(tiny: VllmPlace, flags: dict[str, Any]) -> None:
    changed = {"neuronConfig": tiny.settings["neuronConfig"] | flags}
    with tiny.serving(strategy="ShardOnCompile", **changed) as worker:
        assert all(text for text, _ in answers(worker.url))


def test_a_copy_on_scratch_is_made_by_one_of_the_processes_and_read_by_both(tiny: VllmPlace) -> None:
    changes: dict[str, Any] = {"strategy": "ShardOnCompile", "scratchTier": True}
    with tiny.serving(**changes) as worker:
        first = answers(worker.url)
        worker.until(lambda: copied(tiny))
    with tiny.serving(**changes) as worker:
        assert worker.status().tier == "Scratch"
        assert answers(worker.url) == first
