"""Text that appears token by token is the text, also where a character takes several tokens."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuronmodel_worker.serve.text import Detokenizer, StopText, Text, end_tokens, load_text
from tests.unit.engine.models import write_tokenizer


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Text:
    directory = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(directory)
    return load_text(directory, {})


@pytest.mark.parametrize("whole", ["Hello, how are you?", "naïve – 東京は🙂🙃!", "", " leading", "a\n\n b", "🙂"])
def test_pieces_make_up_the_text(text: Text, whole: str) -> None:
    detokenizer = text.detokenizer()
    pieces = [detokenizer.push(token) for token in text.encode(whole)]
    assert "".join(pieces) + detokenizer.rest() == whole
    assert not any("\ufffd" in piece for piece in pieces)


@given(st.text(max_size=30))
def test_any_text_comes_out_as_it_is(text: Text, whole: str) -> None:
    detokenizer = Detokenizer(text.tokenizer)
    tokens = text.encode(whole)
    expected = text.tokenizer.decode(tokens)
    assert "".join([detokenizer.push(token) for token in tokens]) + detokenizer.rest() == expected


def test_half_a_character_at_the_end_is_told_as_such(text: Text) -> None:
    detokenizer = text.detokenizer()
    tokens = text.encode("é東")[:-1]
    told = "".join(detokenizer.push(token) for token in tokens)
    assert "\ufffd" not in told
    assert told + detokenizer.rest() == text.tokenizer.decode(tokens)


def test_a_stop_string_is_found_across_pieces() -> None:
    stops = StopText(("END", "\n\n"))
    assert stops.push("one E") == ("one ", False)
    assert stops.push("N") == ("", False)
    assert stops.push("X E") == ("ENX ", False)
    assert stops.push("ND more") == ("", True)


def test_what_only_looked_like_a_stop_string_is_told_at_the_end() -> None:
    stops = StopText(("END",))
    assert stops.push("the EN") == ("the ", False)
    assert stops.rest() == "EN"


def test_the_spec_decides_what_ends_an_answer(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"eos_token_id": 1}')
    assert end_tokens(tmp_path, {}, 9) == {1}
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [2, 3]}')
    assert end_tokens(tmp_path, {}, 9) == {2, 3}
    assert end_tokens(tmp_path, {"eos_token_id": 4}, 9) == {4}
    assert end_tokens(tmp_path / "nowhere", {}, 9) == {9}
