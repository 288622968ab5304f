"""The API as the official client sees it, against a worker that really serves."""

from typing import Any

import httpx2 as httpx
import pytest
from openai import BadRequestError, NotFoundError, OpenAI
from transformers import AutoTokenizer

from tests.unit.worker.workers import Worker
from tests.waiting import PATIENCE_SECONDS

GREET = [{"role": "user", "content": "Hello, how are you?"}]


def test_models_are_listed(client: OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["small"]
    assert client.models.retrieve("small").id == "small"


def test_another_model_is_not_found(client: OpenAI) -> None:
    with pytest.raises(NotFoundError, match="no model 'large'"):
        client.completions.create(model="large", prompt="Hello")


def test_a_completion_counts_its_tokens(client: OpenAI, worker: Worker) -> None:
    answer = client.completions.create(model="small", prompt="Hello, how", max_tokens=7, temperature=0)
    tokenizer = AutoTokenizer.from_pretrained(worker.config["sourcePath"])
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == len(tokenizer.encode("Hello, how"))
    assert answer.usage.completion_tokens == 7
    assert answer.choices[0].finish_reason == "length"


def test_a_prompt_may_be_tokens(client: OpenAI, worker: Worker) -> None:
    tokens = AutoTokenizer.from_pretrained(worker.config["sourcePath"]).encode("Hello, how")
    asked: dict[str, Any] = {"model": "small", "max_tokens": 7, "temperature": 0}
    one = client.completions.create(prompt=tokens, **asked)
    other = client.completions.create(prompt="Hello, how", **asked)
    assert one.choices[0].text == other.choices[0].text != ""


def test_a_streamed_chat_is_the_whole_one(client: OpenAI) -> None:
    asked: dict[str, Any] = {"model": "small", "messages": GREET, "max_completion_tokens": 40, "temperature": 0}
    whole = client.chat.completions.create(**asked)
    pieces = list(client.chat.completions.create(stream=True, stream_options={"include_usage": True}, **asked))
    assert "".join(p.choices[0].delta.content or "" for p in pieces if p.choices) == whole.choices[0].message.content
    assert pieces[0].choices[0].delta.role == "assistant"
    assert [p.choices[0].finish_reason for p in pieces if p.choices][-1] == whole.choices[0].finish_reason
    assert pieces[-1].usage == whole.usage
    assert len(pieces) > 5


def test_a_stream_ends_with_done(worker: Worker) -> None:
    body = {"model": "small", "prompt": "Hello", "max_tokens": 3, "stream": True}
    response = httpx.post(f"{worker.url}/completions", json=body, timeout=PATIENCE_SECONDS)
    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.text.endswith("data: [DONE]\n\n")


def test_the_same_seed_gives_the_same_answer(client: OpenAI) -> None:
    def ask(seed: int) -> str:
        asked: dict[str, Any] = {"model": "small", "prompt": "Hello", "max_tokens": 24, "temperature": 1.5}
        return str(client.completions.create(seed=seed, **asked).choices[0].text)

    assert ask(1) == ask(1)
    assert len({ask(seed) for seed in range(4)}) > 1


def test_a_tiny_top_p_is_greedy(client: OpenAI) -> None:
    asked: dict[str, Any] = {"model": "small", "prompt": "Hello", "max_tokens": 12}
    one = client.completions.create(temperature=2, top_p=1e-6, **asked)
    assert one.choices[0].text == client.completions.create(temperature=0, **asked).choices[0].text


def test_a_stop_string_ends_the_answer_and_is_not_returned(client: OpenAI) -> None:
    asked: dict[str, Any] = {"model": "small", "prompt": "Hello", "max_tokens": 40, "temperature": 0}
    whole = client.completions.create(**asked).choices[0].text
    stop = whole[6:9]
    cut = client.completions.create(stop=["never this", stop], **asked).choices[0]
    assert (cut.text, cut.finish_reason) == (whole[: whole.index(stop)], "stop")


def test_a_prompt_that_is_too_long_is_refused_with_both_figures(client: OpenAI) -> None:
    with pytest.raises(BadRequestError, match="200 tokens, and this model takes at most 128") as refusal:
        client.completions.create(model="small", prompt=[5] * 200)
    assert refusal.value.code == "context_length_exceeded"


def test_an_answer_ends_where_the_sequence_is_full(client: OpenAI) -> None:
    answer = client.completions.create(
        model="small", prompt=[5] * 120, max_tokens=128, temperature=0, stop=["never this"]
    )
    assert answer.usage is not None
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage.total_tokens == 129  # the last token needs no place: nothing is computed from it


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens"])
def test_an_answer_longer_than_a_sequence_is_refused_before_it_begins(client: OpenAI, field: str, stream: bool) -> None:
    with pytest.raises(BadRequestError, match=f"{field} is 100,000") as refusal:
        client.chat.completions.create(model="small", messages=GREET, stream=stream, **{field: 100_000})  # type: ignore[call-overload]
    assert (refusal.value.code, refusal.value.param) == ("context_length_exceeded", field)
    assert refusal.value.type == "invalid_request_error"


@pytest.mark.parametrize("stream", [False, True])
def test_the_refusal_names_the_sequence_the_prompt_and_what_may_be_asked_for(client: OpenAI, stream: bool) -> None:
    asked: dict[str, Any] = {"model": "small", "prompt": [5] * 120, "stream": stream, "temperature": 0}
    with pytest.raises(BadRequestError) as refusal:
        client.completions.create(max_tokens=129, **asked)
    assert "max_tokens is 129" in refusal.value.message
    assert "at most 128 tokens, with the prompt's 120. Ask for at most 8, or leave it out." in refusal.value.message
    assert (refusal.value.code, refusal.value.param) == ("context_length_exceeded", "max_tokens")
    assert client.completions.create(max_tokens=8, **asked)


def test_a_prompt_that_fills_the_sequence_is_answered_with_one_token(client: OpenAI) -> None:
    asked: dict[str, Any] = {"model": "small", "prompt": [5] * 128, "temperature": 0}
    answer = client.completions.create(max_tokens=128, **asked)
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 1
    with pytest.raises(BadRequestError, match="Ask for at most 1,"):
        client.completions.create(max_tokens=1000, **asked)


@pytest.mark.parametrize(
    ("asked", "what"),
    [
        ({"n": 2}, "n=2 is not supported"),
        ({"logprobs": 3}, "logprobs=3 is not supported"),
        ({"logprobs": 0}, "logprobs=0 is not supported"),
        ({"presence_penalty": 0.5}, "presence_penalty=0.5 is not supported"),
        ({"temperature": 3}, "temperature: Input should be less than or equal to 2"),
        ({"top_p": 0}, "top_p: Input should be greater than 0"),
        ({"max_tokens": 0}, "max_tokens: Input should be greater than or equal to 1"),
        ({"extra_body": {"banana": 1}}, "banana: this server does not know the field"),
        ({"prompt": ["one", "two"]}, "2 prompts came in one request"),
        ({"prompt": [1, 2, 999]}, "the token 999, which is outside the vocabulary"),
        ({"prompt": [1, -2]}, "the token -2, which is outside the vocabulary"),
        ({"prompt": ""}, "The prompt is empty"),
    ],
)
def test_what_is_not_supported_is_refused_by_name(client: OpenAI, asked: dict[str, Any], what: str) -> None:
    with pytest.raises(BadRequestError, match=what):
        client.completions.create(**{"model": "small", "prompt": "Hello", **asked})


def test_what_the_template_refuses_is_reported(client: OpenAI) -> None:
    with pytest.raises(BadRequestError, match="no robots"):
        client.chat.completions.create(model="small", messages=[{"role": "robot", "content": "beep"}])  # type: ignore[misc,list-item]


def test_a_body_that_is_no_json_is_a_bad_request(worker: Worker) -> None:
    response = httpx.post(f"{worker.url}/completions", content=b"{", timeout=PATIENCE_SECONDS)
    assert response.status_code == 400
    assert "Invalid JSON" in response.json()["error"]["message"]


def test_an_unknown_path_has_an_error_in_the_same_shape(worker: Worker) -> None:
    response = httpx.get(f"{worker.url}/embeddings", timeout=PATIENCE_SECONDS)
    assert (response.status_code, response.json()["error"]["type"]) == (404, "invalid_request_error")


def test_metrics_tell_of_the_start_and_of_requests(client: OpenAI, worker: Worker) -> None:
    client.completions.create(model="small", prompt="Hello", max_tokens=3)
    text = worker.admin("/metrics").text
    assert 'neuronmodel_start_phase_seconds{phase="Read",stage="Serve"}' in text
    assert 'neuronmodel_requests_total{endpoint="/v1/completions",status="200"}' in text
    assert "neuronmodel_time_to_first_token_seconds_count" in text


def test_a_client_that_leaves_stops_the_computing(client: OpenAI, worker: Worker) -> None:
    stream = client.completions.create(model="small", prompt="Hello", max_tokens=120, stream=True, temperature=0)
    next(iter(stream))
    stream.close()
    worker.until(lambda: "neuronmodel_requests_in_flight 0.0" in worker.admin("/metrics").text)
    assert client.completions.create(model="small", prompt="Hello", max_tokens=2).choices[0].text
