"""vLLM answers from a checkpoint of transformers 5 as the CPU engine does, whoever reads its weights."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.worker.engines.models import write_chat_model
from tests.unit.worker.engines.test_config_forms import LLAMA_THREE, in_new_form
from tests.unit.worker.serve.vllm.test_serve import FLAGS, GRAPH, NeuronPlace, answers
from tests.unit.worker.serve.vllm.vllm_standin import standin_environment
from tests.unit.worker.workers import Place


@pytest.fixture
def place(tmp_path: Path) -> Iterator[NeuronPlace]:
    source = tmp_path / "source"
    source.mkdir()
    write_chat_model(source)
    in_new_form(source, {"rope_theta": 500.0, **LLAMA_THREE})
    with pytest.MonkeyPatch.context() as patch:
        for name, value in standin_environment(tmp_path).items():
            patch.setenv(name, value)
        yield NeuronPlace(tmp_path, source, {"engine": "Neuron", "server": "VLLM", "neuronConfig": FLAGS})


def test_answers_are_those_of_the_cpu_engine(place: NeuronPlace) -> None:
    root = place.root / "cpu"
    root.mkdir()
    with Place(root, place.source).serving(neuronConfig=GRAPH) as worker:
        expected = answers(worker)
    for weights in ("Streamed", "Native"):
        with place.serving(strategy="ShardOnLoad", weights=weights) as worker:
            assert answers(worker) == expected
            (call,) = place.calls("vllm")
            assert Path(call["arguments"]["model_tag"]).name == "checkpoint"
        place.forget()
