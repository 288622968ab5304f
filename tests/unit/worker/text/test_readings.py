"""What is predicted for transformers 5, against what it was seen to read (tests/unit/worker/text/tokenizers)."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from neuronmodel_worker.text import TokenizerFiles
from neuronmodel_worker.text.tokenizer_versions import differences
from tests.paths import TOKENIZERS

FIVE = "transformers 5.24.0"
# By class, by cleaning what is decoded, or for want of a tokenizer.json: nothing is predicted.
NOT_PREDICTED = {
    "code-llama",
    "llama3-cleaned",
    "sentencepiece-bpe-legacy",
    "sentencepiece-no-config",
    "sentencepiece-unigram",
}


def read(folder: Path, name: str) -> Any:
    file = folder / name
    return json.loads(file.read_bytes()) if file.exists() else {}


EXPECTED = {folder.name: read(folder, "expected.json") for folder in sorted(TOKENIZERS.iterdir()) if folder.is_dir()}
READ = {name: expected for name, expected in EXPECTED.items() if expected["read"]}


def predictions(name: str) -> list[str]:
    loader = AutoTokenizer if READ[name]["read_by"] == "AutoTokenizer" else PreTrainedTokenizerFast
    tokenizer = loader.from_pretrained(TOKENIZERS / name, local_files_only=True, **READ[name].get("options", {}))
    return differences(tokenizer, TokenizerFiles(TOKENIZERS / name))


@pytest.mark.parametrize("name", sorted(READ.keys() - NOT_PREDICTED))
def test_a_difference_is_reported_only_where_transformers_5_reads_differently(name: str) -> None:
    seen = READ[name][FIVE].keys() - {"size"}
    assert bool(predictions(name)) == bool(seen)


@pytest.mark.parametrize("name", sorted(READ.keys() & NOT_PREDICTED))
def test_nothing_is_reported_about_what_no_rule_covers(name: str) -> None:
    assert predictions(name) == []


SENTENCES = {
    "llama-bos-by-flag": [
        "transformers 4.57 reads 'Hello, world!' as [1, 295, 327, 296, 280, 301, 307, 274, 301, 303, 305, 306, 323], "
        "and 5 as [295, 327, 296, 280, 301, 307, 274, 301, 303, 305, 306, 323]: 4.57's LlamaTokenizerFast goes by "
        "add_bos_token (true) and add_eos_token (false), 5 by the post_processor of tokenizer.json."
    ],
    "llama-not-legacy": [
        "transformers 4.57 reads ' Then  two\\n\\n  lines' as "
        "[295, 281, 259, 298, 295, 260, 311, 301, 13, 13, 295, 269, 292, 304] (with nothing around it), and 5 as "
        "[281, 259, 298, 295, 260, 311, 301, 13, 13, 295, 269, 292, 304]: 5's LlamaTokenizer has its own normalizer "
        "and pre_tokenizer in place of tokenizer.json's."
    ],
    "qwen2-token-not-declared": [
        "transformers 4.57 reads '<|tool|>' as [320], and 5 as [27, 91, 83, 78, 78, 75, 91, 29]: 5's Qwen2Tokenizer "
        "takes added tokens from added_tokens_decoder of tokenizer_config.json and not from tokenizer.json."
    ],
    "llama-prepend-never": [
        "transformers 4.57 reads 'Hello, world!' as [327, 296, 280, 301, 307, 274, 301, 303, 305, 306, 323] "
        "(with nothing around it), and 5 as [295, 327, 296, 280, 301, 307, 274, 301, 303, 305, 306, 323]: "
        "5's LlamaTokenizer has its own normalizer and pre_tokenizer in place of tokenizer.json's.",
        "transformers 4.57 writes [281, 259, 298, 295, 260, 311, 301, 13, 13, 295, 269, 292, 304] as "
        "' Then  two\\n\\n  lines', and 5 as 'Then  two\\n\\n  lines': 5's LlamaTokenizer has its own decoder in "
        "place of tokenizer.json's.",
    ],
}


@pytest.mark.parametrize("name", SENTENCES)
def test_a_sentence_gives_both_readings_and_what_decides(name: str) -> None:
    assert predictions(name) == SENTENCES[name]


def test_tokens_that_no_file_names_are_reported_by_role() -> None:
    beginning, end, *_ = predictions("no-tokenizer-config")
    assert beginning == (
        "transformers 4.57 takes '<s>' for the beginning of a text, and 5 none: no file names the bos_token, "
        "and LlamaTokenizerFast's default is not 5's."
    )
    assert end.startswith("transformers 4.57 takes '</s>' for the end of a text, and 5 none:")


TEXTS_OF_5 = [
    pytest.param(name, *encoding, id=f"{name}: {encoding[0]}")
    for name in sorted(READ.keys() - NOT_PREDICTED - {"qwen2-token-not-declared"})
    for encoding in READ[name][FIVE].get("encodings", [])
    if encoding[0]
]


@pytest.mark.parametrize(("name", "text", "around", "inside"), TEXTS_OF_5)
def test_the_reading_that_is_predicted_for_5_is_5s(
    name: str, text: str, around: list[int], inside: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("neuronmodel_worker.text.tokenizer_versions.TEXTS", (text,))
    sentences = [sentence for sentence in predictions(name) if f"reads {text!r} as" in sentence]
    assert sentences
    for sentence in sentences:
        reading = inside if "nothing around it" in sentence else around
        assert f", and 5 as {reading}:" in sentence


@pytest.mark.parametrize(
    ("file", "changes"),
    [
        ("config.json", {"model_type": "gemma"}),
        ("tokenizer_config.json", {"auto_map": {"AutoTokenizer": ["a.B", None]}}),
        ("tokenizer_config.json", {"tokenizer_class": "CohereTokenizerFast"}),
    ],
)
def test_what_this_worker_has_no_rule_for_is_not_guessed(file: str, changes: dict[str, Any], tmp_path: Path) -> None:
    folder = TOKENIZERS / "llama-bos-by-flag"
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert differences(tokenizer, TokenizerFiles(folder))
    changed = shutil.copytree(folder, tmp_path / "model")
    (changed / file).write_text(json.dumps({**read(changed, file), **changes}))
    assert differences(tokenizer, TokenizerFiles(changed)) == []
