"""Answers through NxD Inference's adapter are transformers' own, one token after the other, alone and side by side."""

import json
import shutil
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaForCausalLM

from neuronmodel_worker.engines import Limits, Sampling, SamplingNotCompiled
from neuronmodel_worker.engines.logit_checks import LogitsNotFinite
from neuronmodel_worker.engines.nxdi import batching
from neuronmodel_worker.engines.nxdi.batching import LoadedNeuronModel
from neuronmodel_worker.engines.nxdi.neuron_failures import DeviceFailed
from tests.unit.standins.conftest import Importer
from tests.unit.worker.engines.models import edit_config, shard, write_model
from tests.unit.worker.engines.nxdi.conftest import SMALL, Calls, MakeEngine, no_progress

pytestmark = pytest.mark.usefixtures("in_process", "devices")

GREEDY = Sampling(temperature=0.0)
PROMPT = [5, 6, 7, 8, 9]
ON_DEVICE = {"on_device_sampling_config": {"top_k": 1}}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    write_model(folder)
    return folder


@pytest.fixture(scope="module")
def reference(source: Path) -> LlamaForCausalLM:
    return LlamaForCausalLM.from_pretrained(source, dtype=torch.float32)


class Load:
    def __init__(self, make_engine: MakeEngine, source: Path, work: Path) -> None:
        self.make_engine, self.source, self.work = make_engine, source, work

    def __call__(self, **flags: Any) -> LoadedNeuronModel:
        flags, compiled = {**SMALL, **flags}, self.work / "compiled"
        plan, ranks = shard(self.source, flags)
        engine = self.make_engine(self.source, flags, generation_config={"pad_token_id": 2})
        compiled.mkdir()
        engine.compile(plan, flags, compiled, no_progress)
        return engine.open(compiled).load(ranks)


@pytest.fixture
def load(make_engine: MakeEngine, source: Path, tmp_path: Path) -> Load:
    return Load(make_engine, source, tmp_path)


def expected(model: LlamaForCausalLM, prompt: Sequence[int], count: int) -> list[int]:
    ids = torch.tensor([list(prompt)])
    made = model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=count, do_sample=False, eos_token_id=-1
    )
    tokens: list[int] = made[0, len(prompt) :].tolist()
    return tokens


def first(tokens: Iterator[int], count: int) -> list[int]:
    found = [token for token, _ in zip(tokens, range(count), strict=False)]
    tokens.close()  # type: ignore[attr-defined]
    return found


def together(
    model: LoadedNeuronModel, prompts: Sequence[Sequence[int]], sampling: Sampling = GREEDY
) -> list[list[int]]:
    answers: list[list[int]] = [[] for _ in prompts]

    def answer(number: int) -> None:
        answers[number] = list(model.generate(prompts[number], sampling))

    threads = [threading.Thread(target=answer, args=(number,)) for number in range(len(prompts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers


@pytest.mark.parametrize("flags", [ON_DEVICE, {}], ids=["sampled on the device", "sampled here"])
def test_answers_are_transformers_own(
    load: Load, reference: LlamaForCausalLM, flags: dict[str, Any], called: Calls
) -> None:
    """Also of those that are shorter than the others of their batch, or go on in another one."""
    model = load(**flags, seq_len=28, max_context_length=16)
    assert first(model.generate(PROMPT, GREEDY), 10) == expected(reference, PROMPT, 10)
    prompts = [PROMPT, list(range(20, 36)), [3, 9], [4, 8]]
    assert together(model, prompts) == [expected(reference, prompt, 28 - len(prompt)) for prompt in prompts]
    assert {call["lines"] for call in called("forward")} == {2}


def test_a_prompt_of_one_token_is_none_for_the_library(load: Load, reference: LlamaForCausalLM) -> None:
    """It answers as if padding stood behind it; the API asks the limits before."""
    model = load(**ON_DEVICE)
    assert model.limits.shortest_prompt == 2
    assert first(model.generate([3], GREEDY), 1) == expected(reference, [3, 0], 1)
    assert first(model.generate([3, 9], GREEDY), 1) == expected(reference, [3, 9], 1)


def test_a_token_is_passed_on_as_soon_as_it_is_generated(load: Load, called: Calls) -> None:
    """Not when all are: after the first one nothing but the prompt and at most what came meanwhile was computed."""
    model, taken = load(**ON_DEVICE), threading.Event()
    forwards = called("forward")
    assert forwards == []
    tokens = model.generate(PROMPT, GREEDY)
    application: Any = model._application
    original = application.token_generation_model.forward

    def waits(*given: Any) -> Any:
        taken.wait()
        return original(*given)

    application.token_generation_model.forward = waits
    assert isinstance(next(tokens), int)
    assert "context_encoding_model" in {call["submodel"] for call in called("forward")}
    taken.set()
    tokens.close()  # type: ignore[attr-defined]


def test_a_closed_answer_frees_its_row_for_one_that_waits(load: Load, reference: LlamaForCausalLM) -> None:
    model = load(**ON_DEVICE, batch_size=1)
    abandoned = model.generate(PROMPT, GREEDY)
    next(abandoned)
    abandoned.close()  # type: ignore[attr-defined]
    assert first(model.generate([7, 8, 9], GREEDY), 5) == expected(reference, [7, 8, 9], 5)


def test_a_prompt_that_fills_the_sequence_gets_one_token(load: Load, reference: LlamaForCausalLM) -> None:
    model = load(**ON_DEVICE, seq_len=32)
    prompt = list(range(10, 42))
    assert list(model.generate(prompt, GREEDY)) == expected(reference, prompt, 1)


def test_which_token_ends_an_answer_is_the_callers_to_judge(
    make_engine: MakeEngine, source: Path, reference: LlamaForCausalLM, tmp_path: Path, called: Calls
) -> None:
    """The library would fill its line with padding from there on."""
    tokens = expected(reference, PROMPT, 10)
    shutil.copytree(source, tmp_path / "ends")
    edit_config(tmp_path / "ends", eos_token_id=tokens[2], transformers_version="4.57.0")
    (tmp_path / "ends" / "generation_config.json").write_text(json.dumps({"eos_token_id": [tokens[2]]}))
    model = Load(make_engine, tmp_path / "ends", tmp_path)(**ON_DEVICE)
    assert first(model.generate(PROMPT, GREEDY), 10) == tokens
    assert len(called("generate")) == 1


@pytest.mark.parametrize(
    "defaults",
    [
        {"num_beams": 4},
        {"cache_implementation": "quantized"},
        {"stop_strings": ["a"]},
        {"token_healing": True},
        {"prompt_lookup_num_tokens": 3},
        {"dola_layers": "high"},
        {"guidance_scale": 1.5},
        {"eos_token_id": [1, 2], "exponential_decay_length_penalty": [2, 1.5]},
    ],
    ids=lambda defaults: list(defaults)[-1],
)
def test_a_checkpoint_does_not_choose_another_way_to_generate(
    make_engine: MakeEngine, source: Path, reference: LlamaForCausalLM, tmp_path: Path, defaults: dict[str, Any]
) -> None:
    """Of beams, caches and tokenizers the adapter has none: each request would fail."""
    shutil.copytree(source, tmp_path / "other")
    (tmp_path / "other" / "generation_config.json").write_text(json.dumps(defaults))
    model = Load(make_engine, tmp_path / "other", tmp_path)()
    assert first(model.generate(PROMPT, GREEDY), 4) == expected(reference, PROMPT, 4)


def test_what_a_checkpoint_says_of_logits_is_done(make_engine: MakeEngine, source: Path, tmp_path: Path) -> None:
    shutil.copytree(source, tmp_path / "other")
    (tmp_path / "other" / "generation_config.json").write_text(json.dumps({"suppress_tokens": list(range(100))}))
    model = Load(make_engine, tmp_path / "other", tmp_path)()
    assert min(first(model.generate(PROMPT, GREEDY), 4)) >= 100


def test_prompts_that_are_read_one_at_a_time_keep_their_own_places(load: Load, reference: LlamaForCausalLM) -> None:
    model = load(**ON_DEVICE, seq_len=28, max_context_length=16, is_continuous_batching=True, ctx_batch_size=1)
    prompts = [PROMPT, list(range(20, 36)), [9, 8, 7]]
    assert together(model, prompts) == [expected(reference, prompt, 28 - len(prompt)) for prompt in prompts]


def test_the_limits_are_the_graphs(load: Load) -> None:
    limits = load(**ON_DEVICE).limits
    assert (limits.context_length, limits.sequence_length, limits.batch_size) == (32, 64, 2)


def test_the_limits_are_those_of_the_largest_buckets(load: Load, reference: LlamaForCausalLM) -> None:
    """The library raises a ValueError for what no bucket holds."""
    buckets = {"context_encoding_buckets": [16, 8], "token_generation_buckets": [24, 16]}
    model = load(**ON_DEVICE, seq_len=32, max_context_length=20, enable_bucketing=True, **buckets)
    assert (model.limits.context_length, model.limits.sequence_length) == (16, 24)
    prompt = list(range(20, 36))
    assert list(model.generate(prompt, GREEDY)) == expected(reference, prompt, 8)


def test_a_graph_that_samples_in_one_way_refuses_others_in_a_sentence(load: Load) -> None:
    model = load(**ON_DEVICE)
    model.check_sampling(GREEDY)
    model.check_sampling(Sampling(temperature=0.7, top_k=1))
    with pytest.raises(SamplingNotCompiled, match="it takes the likeliest token"):
        model.check_sampling(Sampling(temperature=0.7))


def test_a_dynamic_graph_takes_each_requests_values(load: Load, reference: LlamaForCausalLM, called: Calls) -> None:
    model = load(on_device_sampling_config={"do_sample": True, "dynamic": True, "global_topk": 64})
    with pytest.raises(SamplingNotCompiled, match="top_k is 100, and this model's graph considers the 64 likeliest"):
        model.check_sampling(Sampling(top_k=100))
    assert first(model.generate(PROMPT, GREEDY), 8) == expected(reference, PROMPT, 8)
    first(model.generate(PROMPT, Sampling(temperature=0.5, top_p=0.9, top_k=3)), 2)
    first(model.generate(PROMPT, Sampling(temperature=0.5)), 2)
    greedy, chosen, all_of_them = (call["generation_config"] for call in called("generate"))
    assert (greedy["top_k"], greedy["dynamic"]) == (1, True)
    named = ("do_sample", "temperature", "top_p", "top_k")
    assert [chosen.get(name) for name in named] == [True, 0.5, 0.9, 3]
    assert all_of_them["top_k"] == 64


def test_requests_that_are_sampled_differently_are_not_computed_together(load: Load, called: Calls) -> None:
    sampled = {"do_sample": True, "dynamic": True}
    model = load(on_device_sampling_config=sampled, seq_len=28, max_context_length=16)
    one, other = model.generate(PROMPT, GREEDY), model.generate(PROMPT, Sampling(temperature=0.5, top_k=2))
    threads = [threading.Thread(target=list, args=(tokens,)) for tokens in (one, other)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(called("generate")) == 2


def test_sampling_here_honours_seeds_whoever_is_in_the_batch(load: Load) -> None:
    model = load(seq_len=28, max_context_length=16)
    seeded = Sampling(temperature=1.0, seed=7)
    model.check_sampling(seeded)
    alone = first(model.generate(PROMPT, seeded), 15)
    assert together(model, [PROMPT, [9, 8, 7]], seeded)[0][:15] == alone
    assert first(model.generate(PROMPT, Sampling(temperature=1.0, seed=8)), 15) != alone


def test_a_device_that_fails_ends_the_answers_under_way(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load(**ON_DEVICE)
    monkeypatch.setenv("NEURON_STANDIN_FAIL", "warmup")
    with pytest.raises(DeviceFailed, match="status=101"):
        list(model.generate(PROMPT, GREEDY))
    monkeypatch.delenv("NEURON_STANDIN_FAIL")
    assert len(first(model.generate(PROMPT, GREEDY), 3)) == 3


def test_warm_up_is_the_librarys_and_not_part_of_the_load(load: Load, called: Calls) -> None:
    model = load(**ON_DEVICE)
    assert called("warmup") == []
    model.warm_up()
    assert len(called("warmup")) == 1


def test_a_warm_up_of_a_graph_that_gives_logits_looks_at_them(make_engine: MakeEngine, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    write_model(folder)
    tensors = load_file(folder / "model.safetensors")
    tensors["lm_head.weight"][7, 3] = float("nan")
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(LogitsNotFinite, match="1 are NaN"):
        Load(make_engine, folder, tmp_path)().warm_up()


def test_skip_warmup_skips_it(load: Load, called: Calls) -> None:
    load(**ON_DEVICE, skip_warmup=True).warm_up()
    assert called("warmup") == []


def test_its_thread_ends_when_nothing_waits(load: Load) -> None:
    model = load(**ON_DEVICE)
    first(model.generate(PROMPT, GREEDY), 2)
    for thread in threading.enumerate():
        if thread.name == "neuron-batches":
            thread.join()
    assert len(first(model.generate(PROMPT, GREEDY), 2)) == 2


def test_a_checkpoint_without_a_generation_config_has_the_defaults(neuron: Importer, tmp_path: Path) -> None:
    settings = batching.GenerationSettings(Limits(8, 16, 1), tmp_path, {}, None)
    assert (settings.of_checkpoint.max_length, settings.pad_token) == (20, 0)
