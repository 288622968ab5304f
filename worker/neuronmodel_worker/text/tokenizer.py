"""A checkpoint's tokenizer and chat template, read by transformers. No code of its own runs, nothing is fetched."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from neuronmodel_worker.checkpoint.untrusted import shown
from neuronmodel_worker.failures import WorkerFailure
from neuronmodel_worker.text.files import TokenizerFiles, TokenizerInvalid
from neuronmodel_worker.text.library import transformers

GREETING: Final = ({"role": "user", "content": "Hello"},)

PLAIN_FAST: Final = frozenset({"TokenizersBackend"})
"""Names that transformers 5 gives to what 4.57 calls PreTrainedTokenizerFast: tokenizer.json and nothing else."""


class ChatTemplateError(ValueError):
    """The template does not take these messages, or there is none. A sentence for the client."""


@dataclass(frozen=True)
class Tokenizer:
    """`library` is a transformers tokenizer, fast where one can be made."""

    library: Any

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """A whole text, whatever truncation or padding tokenizer.json was saved with."""
        return list(self.library(text, add_special_tokens=add_special_tokens, verbose=False)["input_ids"])

    def encode_chat(self, messages: Sequence[Mapping[str, Any]]) -> list[int]:
        """Up to where the assistant begins to speak. Raises ChatTemplateError."""
        if not self.has_chat_template:
            raise ChatTemplateError("This model's tokenizer has no chat template. Use /v1/completions.")
        try:
            rendered = self.library.apply_chat_template(list(messages), add_generation_prompt=True, tokenize=False)
        except Exception as error:  # a template is a program of the checkpoint's author: it may raise anything
            raise ChatTemplateError(f"The model's chat template does not take these messages: {error}") from error
        return self.encode(rendered, add_special_tokens=False)

    def decode(self, tokens: Sequence[int]) -> str:
        """As they stand, special tokens and every space included: encoded again, it gives the same tokens."""
        how: dict[str, bool] = {} if self.library.is_fast else {"spaces_between_special_tokens": False}
        return str(
            self.library.decode(list(tokens), skip_special_tokens=False, clean_up_tokenization_spaces=False, **how)
        )

    @property
    def has_chat_template(self) -> bool:
        return bool(self.library.chat_template)

    @cached_property
    def special_tokens(self) -> frozenset[int]:
        """Those that an answer's text leaves out."""
        added = self.library.added_tokens_decoder
        return frozenset(number for number, token in added.items() if token.special) | set(self.library.all_special_ids)

    @cached_property
    def beginning(self) -> tuple[int, ...]:
        """What is put before every text, mostly the BOS token or nothing."""
        alone, two = self.encode(""), self.encode("a")
        same = next((i for i, (left, right) in enumerate(zip(alone, two, strict=False)) if left != right), len(alone))
        return tuple(alone[:same])

    @property
    def end_token(self) -> int | None:
        found = self.library.eos_token_id
        return found if isinstance(found, int) else None

    @cached_property
    def size(self) -> int:
        """One more than its greatest token."""
        return max(len(self.library), *(int(number) + 1 for number in self.library.added_tokens_decoder), 0)

    def text_of(self, token: int) -> str:
        """Of one token, as its vocabulary writes it."""
        return shown(str(self.library.convert_ids_to_tokens(token)))


def read_tokenizer(directory: Path) -> Tokenizer:
    """Raises TokenizerInvalid, TransformersUnsupported, and what `TokenizerFiles` raises for files that are none."""
    files = TokenizerFiles(directory)
    files.check()
    library = transformers()
    try:
        tokenizer = Tokenizer(_read(library, files))
        tokenizer.encode("Hello")
    except WorkerFailure:
        raise
    except Exception as error:  # whatever its files make the library raise, it is the files
        if "trust_remote_code" in str(error):
            raise _needs_code(files) from error
        raise TokenizerInvalid(
            f"The tokenizer of {directory} cannot be loaded: {_first_line(error)} transformers {library.__version__} "
            f"read {files.named}. Put the tokenizer files of the checkpoint there again, all of the same revision."
        ) from error
    _check_template(tokenizer, files)
    return tokenizer


def _read(library: Any, files: TokenizerFiles) -> Any:
    kind = files.config.get("tokenizer_class")
    reader = library.PreTrainedTokenizerFast if kind in PLAIN_FAST else library.AutoTokenizer
    instead: dict[str, Any] = dict(files.inside())
    if isinstance(extra := files.config.get("extra_special_tokens"), list):
        # transformers 5 writes a list of tokens where 4.57 has names for them; its other name is 4.57's for the list.
        instead |= {"extra_special_tokens": {}, "additional_special_tokens": extra}
    with _without_alarm(files):
        return reader.from_pretrained(str(files.directory), local_files_only=True, trust_remote_code=False, **instead)


@contextmanager
def _without_alarm(files: TokenizerFiles) -> Iterator[None]:
    """transformers 4.57.6 warns of a wrong pattern of Mistral's in every vocabulary of more than 100,000 tokens whose
    config.json names no later version; it reads them all the same."""
    if str(files.model_config.get("model_type", "")).startswith("mistral"):
        yield
        return
    logger = logging.getLogger("transformers.tokenization_utils_base")
    logger.addFilter(_is_no_alarm)
    try:
        yield
    finally:
        logger.removeFilter(_is_no_alarm)


def _is_no_alarm(record: logging.LogRecord) -> bool:
    return "fix_mistral_regex" not in str(record.msg)


def _needs_code(files: TokenizerFiles) -> TokenizerInvalid:
    return TokenizerInvalid(
        f"The tokenizer of {files.directory} is code of the checkpoint ({files.code}), and no code of a "
        "checkpoint is run. Put tokenizer files of a class that transformers has itself there: a tokenizer.json, and a "
        "tokenizer_config.json without auto_map whose tokenizer_class is PreTrainedTokenizerFast."
    )


def _check_template(tokenizer: Tokenizer, files: TokenizerFiles) -> None:
    """Raises TokenizerInvalid for a template that no message can be rendered with."""
    if not tokenizer.has_chat_template:
        return
    from jinja2 import TemplateSyntaxError

    try:
        tokenizer.library.apply_chat_template(list(GREETING), add_generation_prompt=True, tokenize=False)
    except TemplateSyntaxError as error:
        raise TokenizerInvalid(
            f"The chat template in {files.template_file} is no valid Jinja: {error.message} (line {error.lineno}). "
            "Put the checkpoint's own there."
        ) from error
    except Exception:  # noqa: S110 - of what it refuses, clients are told
        pass


def _first_line(error: Exception) -> str:
    """As a sentence."""
    line = (str(error).strip().splitlines() or [type(error).__name__])[0].strip()
    line = f"{type(error).__name__}: {line}" if isinstance(error, LookupError | TypeError | AttributeError) else line
    line = shown(line)
    return line if line.endswith((".", "!", "?", "…")) else f"{line}."
