"""Tokens and chat templates are transformers', which is asked for the same each time."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken
from transformers import PreTrainedTokenizerFast

from neuronmodel_worker.serve.text import load_text
from neuronmodel_worker.serve.tokenizer import Tokenizer, read_tokenizer
from tests.unit.engine.models import write_tokenizer

SMOL = Path("/var/lib/neuronmodel-cluster/models/SmolLM2-135M-Instruct")
CHAT: list[dict[str, Any]] = [
    {"role": "system", "content": " Be brief. "},
    {"role": "user", "content": 'What\'s <b> & "naïve"? <|end|>'},
    {"role": "assistant", "content": "Nothing."},
    {"role": "user", "content": "東京は 🙂?\n\nAnd then?"},
]
SMOL_TEMPLATE = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\n"
    "You are a helpful AI assistant<|im_end|>\n' }}{% endif %}{{'<|im_start|>' + message['role'] + '\n' + "
    "message['content'] + '<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}"
    "{{ '<|im_start|>assistant\n' }}{% endif %}"
)
TEMPLATES = {
    "SmolLM2's": SMOL_TEMPLATE,
    "Llama 3's ways": (
        "{{- bos_token }}\n{%- set loop_messages = messages %}\n{% for message in loop_messages %}\n"
        "    {%- set content = '<|' + message['role'] + '|>' + message['content'] | trim + eos_token %}\n"
        "    {% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}\n    {{- content }}\n"
        "{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
    ),
    "blocks and blanks": (
        "{% for m in messages %}\n  {% if m.role == 'system' %}\n    {% continue %}\n  {% endif %}\n"
        "  {% generation %}\n  {{ m.content }}\n  {% endgeneration %}\n"
        "  {% if loop.index == 3 %}{% break %}{% endif %}\n"
        "{% endfor %}\nend"
    ),
    "JSON": "{{ messages | tojson }}{{ messages | tojson(indent=2) }}{{ messages[0] | tojson(sort_keys=true) }}",
    "what is not there": "{{ tools is none }}{{ documents is none }}{{ tools is defined }}{{ nothing }}",
    "dates": "{{ strftime_now('%d %b %Y') }}",
    "namespaces": (
        "{%- set ns = namespace(last='') -%}{%- for m in messages -%}{%- set ns.last = m['content'].split()[-1] -%}"
        "{%- endfor -%}{{ ns.last }}{{ pad_token | default('no pad') }}"
    ),
}  # fmt: skip


def both(directory: Path) -> tuple[Tokenizer, Any]:
    return read_tokenizer(directory), PreTrainedTokenizerFast.from_pretrained(directory)


def edit(file: Path, **changes: Any) -> None:
    file.write_text(json.dumps({**json.loads(file.read_bytes()), **changes}))


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    write_tokenizer(tmp_path)
    edit(tmp_path / "tokenizer_config.json", bos_token={"content": "<|begin|>", "__type": "AddedToken"})
    return tmp_path


@pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES.keys())
def test_a_chat_is_rendered_as_transformers_does(directory: Path, template: str) -> None:
    (directory / "chat_template.jinja").write_text(template)
    ours, theirs = both(directory)
    rendered = theirs.apply_chat_template(CHAT, add_generation_prompt=True, tokenize=False)
    assert ours.render_chat(CHAT) == rendered != ""
    assert load_text(directory, {}).encode_chat(CHAT) == theirs.apply_chat_template(CHAT, add_generation_prompt=True)


@pytest.mark.parametrize(
    "configured",
    ["one {{ messages[0].role }}", [{"name": "rag", "template": "no"}, {"name": "default", "template": "yes"}]],
)
def test_a_template_may_stand_in_the_configuration(directory: Path, configured: Any) -> None:
    (directory / "chat_template.jinja").unlink(missing_ok=True)
    edit(directory / "tokenizer_config.json", chat_template=configured)
    ours, theirs = both(directory)
    assert ours.render_chat(CHAT) == theirs.apply_chat_template(CHAT, add_generation_prompt=True, tokenize=False)


@pytest.mark.parametrize(
    "template", ["{{ messages.append(1) }}", "{{ ''.__class__.__mro__ }}", "{{ raise_exception('only two turns') }}"]
)
def test_a_template_that_oversteps_is_refused_as_transformers_does(directory: Path, template: str) -> None:
    (directory / "chat_template.jinja").write_text(template)
    ours, theirs = both(directory)
    with pytest.raises(Exception, match=r".+") as expected:
        theirs.apply_chat_template(CHAT)
    with pytest.raises(type(expected.value)) as raised:
        ours.render_chat(CHAT)
    assert str(raised.value) == str(expected.value)


def test_tokens_that_only_the_configuration_declares_are_known(directory: Path) -> None:
    declared = {"content": "<|tool|>", "lstrip": False, "normalized": False, "rstrip": False, "single_word": False}
    size = read_tokenizer(directory).size
    tokens = {
        str(size): {**declared, "special": True},
        str(size + 1): {**declared, "content": "word", "special": False},
    }
    edit(directory / "tokenizer_config.json", added_tokens_decoder=tokens, pad_token="<|pad|>")
    ours, theirs = both(directory)
    text = "a<|tool|>word<|begin|> b<|pad|><|end|>"
    assert ours.encode(text) == theirs.encode(text)
    assert ours.decode(ours.encode(text)) == theirs.decode(theirs.encode(text), skip_special_tokens=True)
    assert ours.size == len(theirs) > size


def test_a_whole_text_is_encoded_whatever_was_set_for_training(directory: Path) -> None:
    theirs: Any = PreTrainedTokenizerFast.from_pretrained(directory)
    theirs.add_tokens([AddedToken("<|new|>", special=True)])
    theirs.backend_tokenizer.enable_truncation(5)
    theirs.backend_tokenizer.enable_padding(length=9)
    theirs.backend_tokenizer.save(str(directory / "tokenizer.json"))
    ours, theirs = both(directory)
    for text in ("one", "one<|new|>" * 20):
        assert ours.encode(text) == theirs.encode(text)


@pytest.mark.skipif(
    not (SMOL / "tokenizer.json").exists() and not os.environ.get("CI"),
    reason=f"{SMOL} is not there: `python3 -m hack.cluster model` makes it",
)
def test_a_real_models_tokenizer_is_transformers() -> None:
    ours, theirs = both(SMOL)
    text = "The <|im_start|> naïve façade – 東京 🙂🙃\n\n   12345 don't"
    assert ours.encode(text) == theirs.encode(text)
    assert ours.decode(ours.encode(text)) == theirs.decode(theirs.encode(text), skip_special_tokens=True)
    assert (ours.size, ours.end_token) == (len(theirs), theirs.eos_token_id)
    assert load_text(SMOL, {}).encode_chat(CHAT) == theirs.apply_chat_template(CHAT, add_generation_prompt=True)
