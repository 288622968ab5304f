"""Text and tokens: the checkpoint's tokenizer and chat template, and text that is generated token by token."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from neuronmodel_worker.checkpoint import CONFIG_FILE, GENERATION_FILE, read_generation_config
from neuronmodel_worker.failures import ConfigInvalid
from neuronmodel_worker.io.untrusted_input import shown
from neuronmodel_worker.sources import Folder
from neuronmodel_worker.text.streaming import Detokenizer, StopText
from neuronmodel_worker.text.tokenizer import ChatTemplateError, PromptRefused, Tokenizer, read_tokenizer
from neuronmodel_worker.text.tokenizer_files import TokenizerFiles, TokenizerInvalid
from neuronmodel_worker.text.tokenizer_versions import differences
from neuronmodel_worker.text.transformers_library import panics_caught

log = logging.getLogger(__name__)

SHORT_PROMPT_CHARACTERS: Final = 16
"""Characters for each token of the limit: prompts within them are not checked by their length."""
NORMALIZER_FACTOR: Final = 4
"""A factor on the characters of the longest token, because a normalizer may shorten a text."""


@dataclass(frozen=True)
class Text:
    """The tokenizer of a model. `end_tokens` end an answer. `rows` is the number of rows of the model's embeddings,
    which has no tokens beyond them."""

    source: Path
    tokenizer: Tokenizer
    end_tokens: frozenset[int]
    rows: int

    def encode(self, text: str) -> list[int]:
        """Raises PromptRefused."""
        return self.tokenizer.encode(text)

    def encode_chat(self, messages: Sequence[Mapping[str, Any]]) -> list[int]:
        """Raises ChatTemplateError, PromptRefused."""
        return self.tokenizer.encode_chat(messages)

    def detokenizer(self, prompt: Sequence[int] = ()) -> Detokenizer:
        return Detokenizer(self.tokenizer, prompt)

    @property
    def takes_parts(self) -> bool:
        """Whether the chat template takes the parts of a message's content one by one."""
        return self.tokenizer.loops_over_content

    def too_long(self, asked: str | Sequence[Mapping[str, Any]], longest: int) -> str | None:
        """A sentence for a prompt that is certainly longer than `longest` tokens by its number of characters alone: to
        tokenize it would take seconds and gigabytes."""
        size = len(asked) if isinstance(asked, str) else sum(len(str(message.get("content"))) for message in asked)
        if size < SHORT_PROMPT_CHARACTERS * longest or size <= (
            most := NORMALIZER_FACTOR * self.tokenizer.longest_token * longest
        ):
            return None
        return (
            f"The prompt has {size:,} characters, and this model takes at most {longest:,} tokens, for which {most:,} "
            "are more than enough. Shorten it."
        )

    def outside(self, prompt: Sequence[int]) -> str | None:
        """A sentence for a prompt that the model cannot read, which names the first token without a row."""
        token = next((token for token in prompt if not 0 <= token < self.rows), None)
        if token is None:
            return None
        named = f" ({shown(self.tokenizer.text_of(token))})" if 0 <= token < self.tokenizer.size else ""
        return (
            f"The prompt holds the token {token:,}{named}, which is outside the vocabulary: this model has the tokens "
            f"0 to {self.rows - 1:,}."
        )

    def warn_of_version_differences(self) -> None:
        """Warn of differences in how transformers 5 would read the tokenizer. Takes half a second for a large
        vocabulary. A failure of the comparison does not keep the model from being served."""
        try:
            with panics_caught():
                warnings = differences(self.tokenizer.library, TokenizerFiles(self.source))
        except Exception as error:
            log.info("how transformers 5 reads this tokenizer is not known: %s: %s", type(error).__name__, error)
            return
        for warning in warnings:
            log.warning(warning)

    @property
    def warnings(self) -> tuple[str, ...]:
        if self.tokenizer.size <= self.rows:
            return ()
        first = shown(self.tokenizer.text_of(self.rows))
        return (
            f"The tokenizer has tokens up to {self.tokenizer.size - 1:,}, and the model's vocab_size is {self.rows:,}: "
            f"prompts with one of the others ({first} is the first) are refused.",
        )


def load_text(source: Path, of_spec: Mapping[str, Any], rows: int | None = None) -> Text:
    """The text of a checkpoint. `of_spec` is the GenerationConfig of the spec; `rows` is vocab_size, by default the
    number of the tokenizer's tokens.

    Raises TokenizerInvalid, TransformersUnsupported, ConfigInvalid, and what `refuse_wrong_content` raises.
    """
    files = TokenizerFiles(source)
    tokenizer = read_tokenizer(files)
    of_checkpoint, warnings = read_generation_config(Folder(source))
    ends = end_tokens(of_spec, of_checkpoint, files.config, tokenizer.end_token)
    text = Text(source, tokenizer, ends, tokenizer.size if rows is None else rows)
    for warning in (*warnings, *text.warnings):
        log.warning(warning)
    return text


def end_tokens(
    of_spec: Mapping[str, Any], of_checkpoint: Mapping[str, Any], config: Mapping[str, Any], of_tokenizer: int | None
) -> frozenset[int]:
    """The tokens that end an answer, from the first place that has any: the spec, generation_config.json, config.json,
    the tokenizer. Raises ConfigInvalid."""
    places = (("The spec", of_spec), (GENERATION_FILE, of_checkpoint), (CONFIG_FILE, config))
    for where, settings in places:
        if (value := settings.get("eos_token_id")) is not None:
            return _tokens(value, where)
    return frozenset() if of_tokenizer is None else frozenset({of_tokenizer})


def _tokens(value: object, where: str) -> frozenset[int]:
    """The tokens in a field, without negative ones. Raises ConfigInvalid."""
    given: list[Any] = value if isinstance(value, list) else [value]
    if not all(type(token) is int for token in given):
        raise ConfigInvalid(
            f"{where} gives eos_token_id as {shown(repr(value))}, and the tokens that end an answer are numbers. Put "
            "the checkpoint's own there, or correct it."
        )
    return frozenset(token for token in given if token >= 0)


__all__ = [
    "ChatTemplateError",
    "Detokenizer",
    "PromptRefused",
    "StopText",
    "Text",
    "Tokenizer",
    "TokenizerFiles",
    "TokenizerInvalid",
    "end_tokens",
    "load_text",
    "read_tokenizer",
]
