"""Between text and tokens: the checkpoint's tokenizer and chat template, and text that appears token by token."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from neuronmodel_worker.checkpoint import CONFIG_FILE, GENERATION_FILE, read_generation_config
from neuronmodel_worker.checkpoint.untrusted_input import shown
from neuronmodel_worker.failures import ConfigInvalid
from neuronmodel_worker.text.streaming import Detokenizer, StopText
from neuronmodel_worker.text.tokenizer import ChatTemplateError, PromptRefused, Tokenizer, read_tokenizer
from neuronmodel_worker.text.tokenizer_files import TokenizerFiles, TokenizerInvalid
from neuronmodel_worker.text.tokenizer_versions import differences
from neuronmodel_worker.text.transformers_library import panics_caught

log = logging.getLogger(__name__)

SURELY_SHORT: Final = 16
"""Characters a token: shorter texts are not asked about."""
ROOM: Final = 4
"""Times the characters of the longest token, for a normalizer may make a text shorter."""


@dataclass(frozen=True)
class Text:
    """`end_tokens` end an answer. `rows` are those of the model's embeddings: a token beyond them is none of its."""

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
        """Whether the chat template takes the parts of a content one by one."""
        return self.tokenizer.loops_over_content

    def too_long(self, asked: str | Sequence[Mapping[str, Any]], longest: int) -> str | None:
        """Why it cannot have at most `longest` tokens, where its length alone says so, with room for what a tokenizer
        leaves out: to find out how many it has would take seconds and gigabytes. A sentence."""
        size = len(asked) if isinstance(asked, str) else sum(len(str(message.get("content"))) for message in asked)
        if size < SURELY_SHORT * longest or size <= (most := ROOM * self.tokenizer.longest_token * longest):
            return None
        return (
            f"The prompt has {size:,} characters, and this model takes at most {longest:,} tokens, for which {most:,} "
            "are more than enough. Shorten it."
        )

    def outside(self, prompt: Sequence[int]) -> str | None:
        """Why the model cannot read the prompt: a sentence that names its first token that has no row."""
        token = next((token for token in prompt if not 0 <= token < self.rows), None)
        if token is None:
            return None
        named = f" ({shown(self.tokenizer.text_of(token))})" if 0 <= token < self.tokenizer.size else ""
        return (
            f"The prompt holds the token {token:,}{named}, which is outside the vocabulary: this model has the tokens "
            f"0 to {self.rows - 1:,}."
        )

    def warn_of_other_readings(self) -> None:
        """Where transformers 5 would read the tokenizer differently. Takes half a second for a large vocabulary. That
        it cannot be foretold keeps no model from being served."""
        try:
            with panics_caught():
                told = differences(self.tokenizer.library, TokenizerFiles(self.source))
        except Exception as error:
            log.info("how transformers 5 reads this tokenizer is not known: %s: %s", type(error).__name__, error)
            return
        for warning in told:
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
    """`of_spec`: its GenerationConfig; `rows`: vocab_size, as many as the tokenizer has tokens where nobody knows it.

    Raises TokenizerInvalid, TransformersUnsupported, ConfigInvalid, and what says that a file is none of its kind.
    """
    files = TokenizerFiles(source)
    tokenizer = read_tokenizer(files)
    of_checkpoint, warnings = read_generation_config(source)
    ends = end_tokens(of_spec, of_checkpoint, files.config, tokenizer.end_token)
    text = Text(source, tokenizer, ends, tokenizer.size if rows is None else rows)
    for warning in (*warnings, *text.warnings):
        log.warning(warning)
    return text


def end_tokens(
    of_spec: Mapping[str, Any], of_checkpoint: Mapping[str, Any], config: Mapping[str, Any], of_tokenizer: int | None
) -> frozenset[int]:
    """The first that says something: the spec, generation_config.json, config.json, the tokenizer. Raises
    ConfigInvalid."""
    places = (("The spec", of_spec), (GENERATION_FILE, of_checkpoint), (CONFIG_FILE, config))
    for where, settings in places:
        if (value := settings.get("eos_token_id")) is not None:
            return _tokens(value, where)
    return frozenset() if of_tokenizer is None else frozenset({of_tokenizer})


def _tokens(value: object, where: str) -> frozenset[int]:
    """Negative ones are none. Raises ConfigInvalid."""
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
