"""Text that appears token by token is the text, also where a character takes several tokens."""

from pathlib import Path

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from neuronmodel_worker.text import Detokenizer, StopText, Text, end_tokens, load_text
from tests.paths import TOKENIZERS
from tests.unit.worker.engines.models import write_tokenizer


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


def test_half_a_character_at_the_end_is_returned_as_such(text: Text) -> None:
    detokenizer = text.detokenizer()
    tokens = text.encode("é東")[:-1]
    decoded = "".join(detokenizer.push(token) for token in tokens)
    assert "\ufffd" not in decoded
    assert decoded + detokenizer.rest() == text.tokenizer.decode(tokens)


def test_a_stop_string_is_found_across_pieces() -> None:
    stops = StopText(("END", "\n\n"))
    assert stops.push("one E") == ("one ", False)
    assert stops.push("N") == ("", False)
    assert stops.push("X E") == ("ENX ", False)
    assert stops.push("ND more") == ("", True)


def test_what_only_looked_like_a_stop_string_is_returned_at_the_end() -> None:
    stops = StopText(("END",))
    assert stops.push("the EN") == ("the ", False)
    assert stops.rest() == "EN"


def test_the_spec_decides_what_ends_an_answer(tmp_path: Path) -> None:
    write_tokenizer(tmp_path)
    of_tokenizer = load_text(tmp_path, {}).end_tokens
    assert len(of_tokenizer) == 1
    (tmp_path / "config.json").write_text('{"eos_token_id": 1}')
    assert load_text(tmp_path, {}).end_tokens == {1}
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [2, 3]}')
    assert load_text(tmp_path, {}).end_tokens == {2, 3}
    assert load_text(tmp_path, {"eos_token_id": 4}).end_tokens == {4}
    assert end_tokens({}, {}, {}, None) == frozenset()


def write_spaced_tokenizer(directory: Path, *, scheme: str) -> None:
    """SentencePiece's way: ▁ for a space, one put before the text, and one taken from what is decoded. `scheme` is
    Metaspace's, or `normalizer` for Llama 2's, which puts one before each piece of text between special tokens."""
    words = ["one", "two", "three", "▁", "▁one", "▁two", "▁three"]
    vocabulary = {word: number for number, word in enumerate(["<unk>", "<s>", "</s>", "<|say|>", *words])}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="<unk>"))
    if scheme == "normalizer":
        prepend, replace = tokenizers.normalizers.Prepend("▁"), tokenizers.normalizers.Replace(" ", "▁")
        tokenizer.normalizer = tokenizers.normalizers.Sequence([prepend, replace])
        tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Split(tokenizers.Regex("▁?[a-z]+|▁"), "isolated")
    else:
        tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Sequence(
            [
                tokenizers.pre_tokenizers.Metaspace(prepend_scheme=scheme, split=False),
                tokenizers.pre_tokenizers.Split(tokenizers.Regex("▁?[a-z]+|▁"), "isolated"),
            ]
        )
    steps = [tokenizers.decoders.Replace("▁", " "), tokenizers.decoders.Fuse(), tokenizers.decoders.Strip(" ", 1, 0)]
    tokenizer.decoder = tokenizers.decoders.Sequence(steps)
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", 1)]
    )
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    fast.add_special_tokens({"additional_special_tokens": ["<|say|>"]})
    fast.save_pretrained(directory)


@pytest.mark.parametrize("scheme", ["always", "first", "normalizer"])
@pytest.mark.parametrize("prompt", ["", "one", "one two ", "<|say|>", "two<|say|>", "one<|say|> two"])
@pytest.mark.parametrize("answer", [["▁three", "▁one"], ["one", "▁two"], ["▁", "▁two"]])
def test_prompt_and_text_together_are_the_same_tokens(
    tmp_path: Path, scheme: str, prompt: str, answer: list[str]
) -> None:
    write_spaced_tokenizer(tmp_path, scheme=scheme)
    text = load_text(tmp_path, {})
    asked = text.encode(prompt)
    tokens = [text.tokenizer.library.convert_tokens_to_ids(word) for word in answer]
    detokenizer = text.detokenizer(asked)
    decoded = "".join([detokenizer.push(token) for token in tokens]) + detokenizer.rest()
    written = [each for each in (decoded, decoded.removeprefix(" ")) if text.encode(prompt + each) == [*asked, *tokens]]
    assert decoded in written or not written, (decoded, text.encode(prompt + decoded), [*asked, *tokens])


def test_special_tokens_of_an_answer_are_no_text_of_a_prompt_no_matter(text: Text) -> None:
    end = text.tokenizer.end_token or 0
    detokenizer = text.detokenizer([*text.encode("Hello,"), end])
    assert "".join(detokenizer.push(token) for token in [end, *text.encode(" how"), end]) == " how"


def test_a_prompt_that_ends_within_a_character_is_no_context(text: Text) -> None:
    tokens = text.encode("é東")
    detokenizer = text.detokenizer(tokens[:-1])
    decoded = "".join(detokenizer.push(token) for token in text.encode("and"))
    assert decoded + detokenizer.rest() == "and"


def test_what_is_no_character_is_returned_after_a_while(text: Text) -> None:
    byte = text.encode("é")[0]
    detokenizer = text.detokenizer()
    decoded = [detokenizer.push(byte) for _ in range(100)]
    assert sum(map(bool, decoded)) > 5
    assert len("".join(decoded)) > 80


def test_an_answer_behind_a_special_token_that_is_decoded_differently(tmp_path: Path) -> None:
    source = TOKENIZERS / "code-llama"
    text = load_text(source, {})
    special = [number for number in text.tokenizer.special_tokens if "▁<" in text.tokenizer.text_of(number)]
    for number in special:
        written = "the hill" + text.tokenizer.text_of(number)
        whole, asked = text.encode(written + "the rain"), text.encode(written)
        if whole[: len(asked)] != asked:
            continue
        detokenizer = text.detokenizer(asked)
        decoded = "".join(detokenizer.push(token) for token in whole[len(asked) :]) + detokenizer.rest()
        assert text.encode(written + decoded) == whole
