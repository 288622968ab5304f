"""What transformers is not asked for: which files there are, tokens that have no row, versions, code, the network."""

import json
import logging
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from tokenizers import AddedToken
from transformers import PreTrainedTokenizerFast

from neuronmodel_worker.failures import ConfigInvalid, WorkerFailure
from neuronmodel_worker.serve.requests import Message
from neuronmodel_worker.text import (
    ChatTemplateError,
    PromptRefused,
    TokenizerFiles,
    TokenizerInvalid,
    load_text,
    read_tokenizer,
)
from neuronmodel_worker.text.transformers_library import TransformersUnsupported, check_version
from tests.paths import TOKENIZERS
from tests.unit.worker.engines.models import write_tokenizer

CHAT: list[dict[str, Any]] = [
    {"role": "system", "content": " Be brief. "},
    {"role": "user", "content": 'What\'s <b> & "naïve"? <|end|>'},
]


def edit(file: Path, **changes: Any) -> None:
    file.write_text(json.dumps({**json.loads(file.read_bytes()), **changes}))


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    write_tokenizer(tmp_path)
    return tmp_path


def test_a_whole_text_is_encoded_whatever_was_set_for_training(directory: Path) -> None:
    theirs: Any = PreTrainedTokenizerFast.from_pretrained(directory)
    theirs.add_tokens([AddedToken("<|new|>", special=True)])
    plain = theirs.encode("one<|new|>" * 20)
    theirs.backend_tokenizer.enable_truncation(5)
    theirs.backend_tokenizer.enable_padding(length=9)
    theirs.backend_tokenizer.save(str(directory / "tokenizer.json"))
    edit(directory / "tokenizer_config.json", model_max_length=3)
    assert read_tokenizer(TokenizerFiles(directory)).encode("one<|new|>" * 20) == plain


@pytest.mark.parametrize(
    "template", ["{{ messages.append(1) }}", "{{ ''.__class__.__mro__ }}", "{{ raise_exception('only two turns') }}"]
)
def test_a_template_that_oversteps_is_reported_to_the_caller(directory: Path, template: str) -> None:
    (directory / "chat_template.jinja").write_text(template)
    with pytest.raises(ChatTemplateError, match=r"does not take these messages: \w"):
        load_text(directory, {}).encode_chat(CHAT)


def test_a_model_without_template_says_so(directory: Path) -> None:
    (directory / "chat_template.jinja").unlink()
    with pytest.raises(ChatTemplateError, match="no chat template"):
        load_text(directory, {}).encode_chat(CHAT)


def test_a_template_that_is_no_jinja_is_found_out_when_it_is_read(directory: Path) -> None:
    (directory / "chat_template.jinja").write_text("{% for m in messages %}\n{{ m.content }\n{% endfor %}")
    with pytest.raises(TokenizerInvalid, match=r"chat_template\.jinja is no valid Jinja.*line 2"):
        read_tokenizer(TokenizerFiles(directory))
    (directory / "chat_template.jinja").unlink()
    edit(directory / "tokenizer_config.json", chat_template="{% if %}")
    with pytest.raises(TokenizerInvalid, match=r"tokenizer_config\.json is no valid Jinja"):
        read_tokenizer(TokenizerFiles(directory))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("tokenizer.json", "{", r"tokenizer\.json is not valid JSON.* Put the checkpoint's own there"),
        ("tokenizer.json", "{}", r"tokenizer\.json.* Put the tokenizer files"),
        ("tokenizer_config.json", "{", r"tokenizer_config\.json is not valid JSON"),
        ("tokenizer_config.json", "[]", r"tokenizer_config\.json holds no JSON object"),
        ("special_tokens_map.json", "no", r"special_tokens_map\.json is not valid JSON"),
        ("tokenizer_config.json", '{"tokenizer_class": "NoSuchTokenizer"}', "NoSuchTokenizer"),
    ],
)
def test_files_that_cannot_be_read_are_named_with_a_remedy(
    directory: Path, name: str, content: str, message: str
) -> None:
    (directory / name).write_text(content)
    with pytest.raises(WorkerFailure, match=message) as raised:
        load_text(directory, {})
    assert raised.value.reason == "TokenizerInvalid"


def test_the_error_for_a_folder_without_tokenizer_says_what_to_put_there(tmp_path: Path) -> None:
    with pytest.raises(WorkerFailure, match=r"holds no tokenizer.*Put the tokenizer\.json"):
        load_text(tmp_path, {})
    (tmp_path / "tekken.json").write_text("{}")
    with pytest.raises(WorkerFailure, match=r"Mistral's own tekken\.json"):
        load_text(tmp_path, {})


def test_code_of_a_checkpoint_is_not_run(directory: Path, tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    code = f"from pathlib import Path\nPath({str(ran)!r}).touch()\nclass Own: pass\n"
    (directory / "tokenization_own.py").write_text(code)
    auto_map = {"AutoTokenizer": ["tokenization_own.Own", None]}
    edit(directory / "tokenizer_config.json", tokenizer_class="Own", auto_map=auto_map)
    with pytest.raises(TokenizerInvalid, match=r"code of the checkpoint \(tokenization_own\.Own\)"):
        load_text(directory, {})
    edit(directory / "tokenizer_config.json", tokenizer_class="PreTrainedTokenizerFast")
    assert load_text(directory, {}).encode("Hello")
    assert not ran.exists()


def test_no_request_is_made(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a connection")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    for changes in ({}, {"tokenizer_class": None}, {"tokenizer_class": "LlamaTokenizer"}):
        edit(directory / "tokenizer_config.json", **changes)
        (directory / "config.json").write_text('{"model_type": "mistral", "transformers_version": "4.50.0"}')
        load_text(directory, {})


def test_a_token_that_has_no_row_is_warned_of_and_named(directory: Path, caplog: pytest.LogCaptureFixture) -> None:
    size = read_tokenizer(TokenizerFiles(directory)).size
    with caplog.at_level(logging.WARNING):
        text = load_text(directory, {}, size - 2)
    assert f"the model's vocab_size is {size - 2}: prompts with one of the others" in caplog.text
    assert text.outside([0, size - 3]) is None
    assert f"the token {size - 1} (" in (text.outside([0, size - 1]) or "")
    assert f"the token {size + 7}, which" in (text.outside([size + 7]) or "")
    assert "the token -1, which" in (text.outside([-1]) or "")


def test_a_model_with_more_rows_takes_them_all(directory: Path, caplog: pytest.LogCaptureFixture) -> None:
    size = read_tokenizer(TokenizerFiles(directory)).size
    with caplog.at_level(logging.WARNING):
        text = load_text(directory, {}, size + 20)
    assert "vocab_size" not in caplog.text
    assert text.outside([size + 19]) is None
    assert text.detokenizer([size + 3]).push(size + 19) == ""


def test_versions_are_checked_and_named(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        check_version("4.57.6")
    assert "read by transformers 4.57.6" in caplog.text
    assert "compare" not in caplog.text
    with caplog.at_level(logging.WARNING):
        check_version("5.1.0.dev0")
    assert "known to be read right by 4.57: compare" in caplog.text
    with pytest.raises(TransformersUnsupported, match=r"4\.40\.2 is installed"):
        check_version("4.40.2")


def test_reading_a_tokenizer_imports_no_pytorch_and_leaves_the_environment_as_it_was(directory: Path) -> None:
    code = (
        "import os, sys; before = dict(os.environ)\n"
        "from neuronmodel_worker.text import load_text\n"
        "from pathlib import Path\n"
        f"load_text(Path({str(directory)!r}), {{}}).encode('Hello')\n"
        "assert 'torch' not in sys.modules and dict(os.environ) == before"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("command", ["--help", "plan", "shard", "load", "verify"])
def test_commands_that_need_no_tokenizer_import_none(command: str) -> None:
    asked = [command] if command == "--help" else [command, "/nowhere"]
    cli = [sys.executable, "-X", "importtime", "-m", "neuronmodel_worker.cli", *asked]
    imported = subprocess.run(cli, check=False, capture_output=True, text=True).stderr
    assert "neuronmodel_worker" in imported
    assert not [line for line in imported.splitlines() if "transformers" in line or "tokenizers" in line]


UNKNOWN_TOKEN: dict[str, Any] = {
    "type": "TemplateProcessing",
    "single": [{"SpecialToken": {"id": "<zz>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
    "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
    "special_tokens": {},
}


def test_a_panic_of_the_library_is_a_refusal(directory: Path) -> None:
    edit(directory / "tokenizer.json", post_processor=UNKNOWN_TOKEN)
    with pytest.raises(TokenizerInvalid, match="Put the tokenizer files"):
        load_text(directory, {})


def test_a_panic_of_what_foretells_another_reading_ends_nothing(tmp_path: Path) -> None:
    shutil.copytree(TOKENIZERS / "llama", tmp_path / "model")
    edit(tmp_path / "model/tokenizer.json", post_processor=UNKNOWN_TOKEN)
    text = load_text(tmp_path / "model", {})
    text.warn_of_version_differences()
    assert text.encode("the rain")


@pytest.mark.parametrize("value", ["317", ["2"], [None], True, 2.5, [[2]], {"a": 1}])
@pytest.mark.parametrize("file", ["generation_config.json", "config.json"])
def test_ends_that_are_no_tokens_are_refused_by_file_and_field(directory: Path, file: str, value: Any) -> None:
    (directory / file).write_text(json.dumps({"eos_token_id": value}))
    with pytest.raises(ConfigInvalid, match=f"{file} gives eos_token_id as"):
        load_text(directory, {})


def test_a_negative_end_is_none(directory: Path) -> None:
    (directory / "config.json").write_text('{"eos_token_id": -1}')
    assert load_text(directory, {}).end_tokens == frozenset()


@pytest.mark.parametrize("name", ["SentencePieceBackend", "PythonBackend", "MistralCommonBackend"])
def test_classes_of_transformers_5_get_a_remedy_that_works(directory: Path, name: str) -> None:
    edit(directory / "tokenizer_config.json", tokenizer_class=name)
    with pytest.raises(TokenizerInvalid, match=f"class {name}.*tokenizer_class is PreTrainedTokenizerFast"):
        load_text(directory, {})
    edit(directory / "tokenizer_config.json", tokenizer_class="PreTrainedTokenizerFast")
    assert load_text(directory, {}).encode("Hello")


def test_a_class_that_config_json_names_counts_too(directory: Path) -> None:
    expected = load_text(directory, {}).encode("Hello")
    edit(directory / "tokenizer_config.json", tokenizer_class=None)
    (directory / "config.json").write_text('{"tokenizer_class": "TokenizersBackend"}')
    assert load_text(directory, {}).encode("Hello") == expected


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("tokenizer.json", lambda text: b"\xef\xbb\xbf" + text, "tokenizer.json begins with a byte order mark"),
        ("tokenizer.json", lambda text: text[:-9], "tokenizer.json is not valid JSON"),
        ("chat_template.jinja", lambda text: text + b"\xff", "chat_template.jinja is not in UTF-8"),
    ],
)
def test_the_file_that_cannot_be_read_is_the_one_that_is_named(
    directory: Path, name: str, change: Callable[[bytes], bytes], message: str
) -> None:
    (directory / name).write_bytes(change((directory / name).read_bytes()))
    with pytest.raises(TokenizerInvalid, match=message):
        load_text(directory, {})


@pytest.mark.parametrize("template", [5, True, {"default": 5}])
def test_a_template_that_is_no_text_is_refused(directory: Path, template: Any) -> None:
    (directory / "chat_template.jinja").unlink()
    edit(directory / "tokenizer_config.json", chat_template=template)
    with pytest.raises(WorkerFailure, match="template"):
        load_text(directory, {})


def test_a_text_that_the_tokenizer_does_not_take_is_reported_to_the_caller(directory: Path) -> None:
    model = {"type": "WordLevel", "vocab": {"Hello": 0, "two": 1}, "unk_token": "<none>"}
    edit(directory / "tokenizer.json", model=model, added_tokens=[], pre_tokenizer=None, post_processor=None)
    with pytest.raises(PromptRefused, match="does not take this text"):
        load_text(directory, {}).encode("something else")


def test_a_vocabulary_with_gaps_is_as_large_as_its_greatest_token(directory: Path) -> None:
    model = {"type": "WordLevel", "vocab": {"Hello": 0, "<|end|>": 1, "far": 5000}, "unk_token": "Hello"}
    edit(directory / "tokenizer.json", model=model, added_tokens=[], pre_tokenizer=None)
    text = load_text(directory, {}, 400)
    assert text.tokenizer.size == 5001
    assert "the token 5,000 (far)" in (text.outside([5000]) or "")


def test_prompts_that_are_surely_too_long_are_refused_before_they_are_encoded(directory: Path) -> None:
    text = load_text(directory, {})
    most = 4 * text.tokenizer.longest_token * 10
    assert text.too_long("a" * most, 10) is None
    assert "characters" in (text.too_long("a" * (most + 200), 10) or "")
    assert "characters" in (text.too_long([{"content": "a" * (most + 200)}], 10) or "")


@pytest.mark.parametrize(
    ("template", "parts"),
    [
        ("{% for m in messages %}{% for c in m.content %}{{ c.text }}{% endfor %}{% endfor %}", True),
        ("{% for m in messages %}{%- for item in m['content'] -%}{{ item['text'] }}{% endfor %}{% endfor %}", True),
        ("{% for m in messages %}{{ m.content }}{% endfor %}", False),
    ],
)
def test_templates_that_take_a_content_in_parts_are_recognised(directory: Path, template: str, parts: bool) -> None:
    (directory / "chat_template.jinja").write_text(template)
    text = load_text(directory, {})
    assert text.takes_parts is parts
    message = Message.model_validate(
        {"role": "user", "content": [{"type": "text", "text": "one "}, {"type": "text", "text": "two"}]}
    )
    assert text.encode_chat([message.for_template(in_parts=parts)]) == text.encode("one two")


def test_an_assistant_that_called_tools_may_say_nothing() -> None:
    calls = {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]}
    assert Message.model_validate(calls).for_template(in_parts=False)["content"] is None
    with pytest.raises(ValidationError, match="null beside tool_calls alone"):
        Message.model_validate({"role": "user", "content": None})
