"""Checkpoints that are out of the ordinary, prepared and served: what clients get, and what `prepare` says before."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from openai import BadRequestError, OpenAI
from safetensors.torch import load_file, save_file

from neuronmodel_api import exits
from neuronmodel_worker.text import load_text
from tests.paths import TOKENIZERS
from tests.unit.worker.engines.models import edit_config, write_model
from tests.unit.worker.workers import Ended, Place, Worker, returned

GENERATES = """
from neuronmodel_worker.engines import llama
def generate(self, prompt, sampling):
    yield from {tokens}
llama.LoadedLlama.generate = generate
"""
FLAGS = {"tp_degree": 3, "torch_dtype": "float32", "seq_len": 64}


def placed(root: Path, name: str, rows: int | None = None) -> Place:
    """A model of random weights with one of the small tokenizers."""
    source = root / "source"
    shutil.copytree(TOKENIZERS / name, source)
    expected = json.loads((source / "expected.json").read_bytes())["read"]
    config = (source / "config.json").read_bytes() if (source / "config.json").exists() else b"{}"
    write_model(source, vocab_size=rows or expected["size"], eos_token_id=None)
    if own := json.loads(config):
        edit_config(source, **{field: own[field] for field in own if field != "model_type"})
    return Place(root, source, {"neuronConfig": FLAGS})


def client_of(worker: Worker) -> OpenAI:
    return OpenAI(base_url=worker.url, api_key="none", max_retries=0)


@pytest.mark.parametrize("name", ["llama", "llama-legacy", "sentencepiece-bpe", "saved-by-5-llama"])
def test_prompt_and_completion_give_back_the_same_tokens_streamed_and_whole(tmp_path: Path, name: str) -> None:
    """Of a model that says a known sentence whatever it is asked."""
    place = placed(tmp_path, name)
    text = load_text(place.source, {})
    prompt, whole = "the rain", "the rain on the hill"
    tokens, asked = text.encode(whole), text.encode(prompt)
    assert tokens[: len(asked)] == asked
    answer = tokens[len(asked) :]
    with place.serving(before=GENERATES.format(tokens=answer)) as worker:
        client = client_of(worker)
        request: dict[str, Any] = {"model": "small", "prompt": prompt, "max_tokens": len(answer), "temperature": 0}
        returned_text = client.completions.create(**request).choices[0].text
        pieces = [event.choices[0].text for event in client.completions.create(stream=True, **request)]
    assert returned_text == whole.removeprefix(prompt) == "".join(pieces)
    assert text.encode(prompt + returned_text) == tokens


def test_a_token_that_has_no_row_is_refused_by_name_and_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    place = placed(tmp_path, "llama3", rows=250)
    for flags in (FLAGS, {**FLAGS, "vocab_parallel": True}):
        caplog.clear()
        with place.serving(neuronConfig=flags) as worker:
            assert "the model's vocab_size is 250: prompts with one of the others" in caplog.text
            client = client_of(worker)
            with pytest.raises(BadRequestError, match="outside the vocabulary") as raised:
                client.chat.completions.create(
                    model="small", messages=[{"role": "user", "content": "Is it on?"}], max_tokens=2
                )
            assert raised.value.param == "messages"
            with pytest.raises(BadRequestError, match=r"the token 250 \(.+\), which is outside the vocabulary"):
                client.completions.create(model="small", prompt=[1, 250], max_tokens=2)
            assert client.completions.create(model="small", prompt=[1, 2], max_tokens=2).usage


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("tokenizer.json", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "git-lfs"),
        ("tokenizer_config.json", b"<!DOCTYPE html><html><body>401</body></html>", "HTML"),
        ("tokenizer.json", b"{}", "cannot be loaded"),
        ("chat_template.jinja", b"{% for m in messages %}", "no valid Jinja"),
        ("tokenizer_config.json", b'{"tokenizer_class": "HillTokenizer"}', "HillTokenizer"),
        ("generation_config.json", b"{", "not valid JSON"),
    ],
)
def test_a_bad_tokenizer_is_found_before_anything_is_made(
    place: Place, file: str, content: bytes, message: str
) -> None:
    (place.source / file).write_bytes(content)
    ended = place.run("prepare")
    assert ended.code == exits.BAD_INPUT
    assert ended.report.failure is not None
    assert message in ended.report.failure.message
    assert file in ended.report.failure.message
    assert not list((place.artifacts).rglob("*.safetensors"))
    assert "Compiled" not in [phase.name for phase in ended.report.phases]


def test_without_a_tokenizer_prepare_says_what_to_put_there(place: Place) -> None:
    for file in place.source.glob("*token*"):
        file.unlink()
    failure = place.run("prepare").report.failure
    assert failure is not None
    assert failure.reason == "TokenizerInvalid"
    assert "Put the tokenizer.json and tokenizer_config.json of the checkpoint there" in failure.message


def test_both_readings_of_a_tokenizer_are_reported_by_prepare(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    place = placed(tmp_path, "llama-bos-by-flag")
    place.prepare()
    assert "transformers 4.57 reads 'Hello, world!' as [1, " in caplog.text


def test_weights_that_are_no_numbers_end_the_start(place: Place) -> None:
    file = place.source / "model.safetensors"
    tensors = load_file(file)
    tensors["model.norm.weight"][3] = float("nan")
    save_file(tensors, file, metadata={"format": "pt"})
    result = place.prepare().result
    assert result is not None
    ended: Ended = place.run("serve", **returned(result.to_json()))
    assert (ended.code, ended.report.failure and ended.report.failure.reason) == (exits.BAD_INPUT, "LogitsNotFinite")
    assert "Traceback" not in ended.stderr
