"""What the worker reads in small tokenizers of every kind, against what transformers 4.57.6 read in them."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from neuronmodel_worker.text import ChatTemplateError, Text, TokenizerInvalid, load_text
from tests.paths import TOKENIZERS

EXPECTED: dict[str, Any] = {
    file.parent.name: json.loads(file.read_bytes()) for file in sorted(TOKENIZERS.glob("*/expected.json"))
}
READ = {name: expected["read"] for name, expected in EXPECTED.items() if expected["read"]}
CLEANED = {"llama3-cleaned"}
"""transformers takes spaces out of what it decodes there, and encoded again it would be other tokens."""


@pytest.fixture(scope="module")
def texts() -> dict[str, Text]:
    return {name: load_text(TOKENIZERS / name, {}) for name in READ}


@pytest.mark.parametrize("name", READ)
def test_texts_are_encoded_and_decoded_as_transformers_does(texts: dict[str, Text], name: str) -> None:
    tokenizer, expected = texts[name].tokenizer, READ[name]
    assert [tokenizer.encode(text) for text, _, _ in expected["encodings"]] == [e[1] for e in expected["encodings"]]
    plain = [tokenizer.encode(text, add_special_tokens=False) for text, _, _ in expected["encodings"]]
    assert plain == [without for _, _, without in expected["encodings"]]
    if name not in CLEANED:
        decoded = [tokenizer.decode(tokens) for tokens, _, _ in expected["decodings"]]
        assert decoded == [whole for _, _, whole in expected["decodings"]]


@pytest.mark.parametrize("name", READ)
def test_chats_and_ends_are_transformers(texts: dict[str, Text], name: str) -> None:
    text, expected = texts[name], READ[name]
    for messages, _, tokens in expected["chats"]:
        if tokens is None:
            with pytest.raises(ChatTemplateError):
                text.encode_chat(messages)
        else:
            assert text.encode_chat(messages) == tokens
    assert text.tokenizer.end_token == expected["eos_token_id"]


@pytest.mark.parametrize("name", READ)
def test_the_text_of_an_answer_encoded_again_behind_its_prompt_is_the_answer(texts: dict[str, Text], name: str) -> None:
    """At every place where a text can be parted such that both parts are encoded as the whole is."""
    text, parted = texts[name], 0
    for written, whole, _ in READ[name]["encodings"]:
        for end in range(1, len(written)):
            prompt = text.encode(written[:end])
            if whole[: len(prompt)] != prompt or set(whole[len(prompt) :]) & text.tokenizer.special_tokens:
                continue
            parted += 1
            detokenizer = text.detokenizer(prompt)
            decoded = "".join([detokenizer.push(token) for token in whole[len(prompt) :]]) + detokenizer.rest()
            assert text.encode(written[:end] + decoded) == whole, (written[:end], decoded)
    assert parted or READ[name]["encodings"][-1][1][-1:] == [text.tokenizer.end_token]


@pytest.mark.parametrize("name", sorted(EXPECTED.keys() - READ.keys()))
def test_what_transformers_does_not_read_is_refused_by_name(name: str, tmp_path: Path) -> None:
    shutil.copytree(TOKENIZERS / name, tmp_path / "model")
    ran = tmp_path / "ran"
    for module in ("tokenization_hill", "tokenizer"):
        (tmp_path / f"model/{module}.py").write_text(f"open({str(ran)!r}, 'w')\n")
    with pytest.raises(TokenizerInvalid, match=r"(The tokenizer of|holds no tokenizer).* Put "):
        load_text(tmp_path / "model", {})
    assert not ran.exists()


def test_a_file_that_the_configuration_names_is_the_checkpoints_own(tmp_path: Path) -> None:
    shutil.copytree(TOKENIZERS / "llama", tmp_path / "model")
    config = tmp_path / "model/tokenizer_config.json"
    settings = json.loads(config.read_bytes())
    config.write_text(json.dumps({**settings, "tokenizer_file": "/home/somebody/llama/tokenizer.json"}))
    expected = READ["llama"]["encodings"][0]
    assert load_text(tmp_path / "model", {}).encode(expected[0]) == expected[1]
    config.write_text(json.dumps({**settings, "tokenizer_file": "/etc/hostname"}))
    with pytest.raises(TokenizerInvalid, match=r"names /etc/hostname as its tokenizer_file"):
        load_text(tmp_path / "model", {})
