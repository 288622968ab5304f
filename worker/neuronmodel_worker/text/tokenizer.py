"""A checkpoint's tokenizer and chat template, read by transformers. No code of the checkpoint is run, nothing is
fetched."""

import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

from neuronmodel_worker.failures import WorkerFailure
from neuronmodel_worker.io.untrusted_input import shown
from neuronmodel_worker.text.tokenizer_files import TokenizerFiles, TokenizerInvalid
from neuronmodel_worker.text.transformers_library import panics_caught, transformers

LOOP_OVER_CONTENT: Final = re.compile(r"""\bfor\s+\w+\s+in\s+[\w.\[\]'"]*\bcontent\b""")

GREETING: Final = ({"role": "user", "content": "Hello"},)

PLAIN_FAST: Final = frozenset({"TokenizersBackend"})
"""The names in transformers 5 of what 4.57 calls PreTrainedTokenizerFast: a tokenizer.json alone."""


class PromptRefused(ValueError):
    """A prompt that cannot be tokenized. The message is a sentence for the client."""


class ChatTemplateError(PromptRefused):
    """The chat template does not accept the messages, or there is none."""


@dataclass(frozen=True)
class Tokenizer:
    """`library` is a transformers tokenizer, fast where one can be made."""

    library: Any

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """The tokens of the whole text, without the truncation or padding in tokenizer.json. Raises PromptRefused."""
        try:
            with panics_caught():
                return list(self.library(text, add_special_tokens=add_special_tokens, verbose=False)["input_ids"])
        except Exception as error:  # a tokenizer of a checkpoint may raise anything
            raise PromptRefused(f"The model's tokenizer does not take this text: {_first_line(error)}") from error

    def encode_chat(self, messages: Sequence[Mapping[str, Any]]) -> list[int]:
        """The tokens of a chat, up to the beginning of the assistant's answer. Raises ChatTemplateError,
        PromptRefused."""
        if not self.has_chat_template:
            raise ChatTemplateError("This model's tokenizer has no chat template. Use /v1/completions.")
        try:
            rendered = self.render_chat(messages)
        except Exception as error:  # a template is a program in the checkpoint: it may raise anything
            raise ChatTemplateError(f"The model's chat template does not take these messages: {error}") from error
        return self.encode(rendered, add_special_tokens=False)

    def render_chat(self, messages: Sequence[Mapping[str, Any]]) -> str:
        """The text of a chat. Raises whatever the template raises."""
        return str(self.library.apply_chat_template(list(messages), add_generation_prompt=True, tokenize=False))

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of the tokens, with special tokens and every space: encoded again, it gives the same tokens."""
        how: dict[str, bool] = {} if self.library.is_fast else {"spaces_between_special_tokens": False}
        known = [
            token for token in tokens if token < self.size
        ]  # a model may have more rows than the tokenizer has tokens
        with panics_caught():
            return str(self.library.decode(known, skip_special_tokens=False, clean_up_tokenization_spaces=False, **how))

    @property
    def has_chat_template(self) -> bool:
        return bool(self.library.chat_template)

    @cached_property
    def loops_over_content(self) -> bool:
        """Whether the template takes the parts of a message's content one by one, and not only as one text."""
        found = self.library.chat_template
        templates = found.values() if isinstance(found, dict) else [found or ""]
        return any(LOOP_OVER_CONTENT.search(template) for template in templates)

    @cached_property
    def longest_token(self) -> int:
        """The length of the longest token in characters."""
        return max(map(len, self.library.get_vocab()), default=1)

    @cached_property
    def special_tokens(self) -> frozenset[int]:
        """The tokens that are left out of an answer's text."""
        added = self.library.added_tokens_decoder
        return frozenset(number for number, token in added.items() if token.special) | set(self.library.all_special_ids)

    @cached_property
    def beginning(self) -> tuple[int, ...]:
        """The tokens that are put before every text, mostly the BOS token or none."""
        alone, two = self.encode(""), self.encode("a")
        same = next((i for i, (left, right) in enumerate(zip(alone, two, strict=False)) if left != right), len(alone))
        return tuple(alone[:same])

    @property
    def end_token(self) -> int | None:
        found = self.library.eos_token_id
        return found if isinstance(found, int) else None

    @cached_property
    def size(self) -> int:
        """One more than the greatest token."""
        count = max(len(self.library), *(int(number) + 1 for number in self.library.added_tokens_decoder), 0)
        if self.library.is_fast and self.library.backend_tokenizer.id_to_token(count - 1) is None:
            return 1 + max(map(int, self.library.get_vocab().values()), default=-1)  # the numbers have gaps
        return count

    def text_of(self, token: int) -> str:
        """The text of one token: as it was added, or as it is in the vocabulary."""
        added = self.library.added_tokens_decoder.get(token)
        return str(added.content if added else self.library.convert_ids_to_tokens(token))


def read_tokenizer(files: TokenizerFiles) -> Tokenizer:
    """Read a tokenizer. Raises TokenizerInvalid, TransformersUnsupported, and what `TokenizerFiles.check` raises."""
    files.check()
    library = transformers()
    try:
        with panics_caught():
            tokenizer = Tokenizer(_read(library, files))
        tokenizer.encode("Hello")
    except WorkerFailure:
        raise
    except Exception as error:  # the library may raise anything; the cause is in the files
        raise TokenizerInvalid(_load_error(error, files, library.__version__)) from error
    _check_template(tokenizer, files)
    return tokenizer


def _read(library: Any, files: TokenizerFiles) -> Any:
    reader = library.PreTrainedTokenizerFast if files.named_class in PLAIN_FAST else library.AutoTokenizer
    overrides: dict[str, Any] = dict(files.named_files())
    if isinstance(extra := files.tokenizer_config.get("extra_special_tokens"), list):
        # transformers 5 writes a list of tokens where 4.57 has names for them; its other name is 4.57's for the list.
        overrides |= {"extra_special_tokens": {}, "additional_special_tokens": extra}
    with _without_mistral_warning(files):
        return reader.from_pretrained(str(files.directory), local_files_only=True, trust_remote_code=False, **overrides)


@contextmanager
def _without_mistral_warning(files: TokenizerFiles) -> Iterator[None]:
    """Suppress a false warning: transformers 4.57.6 warns of a wrong pattern of Mistral's for every vocabulary of more
    than 100,000 tokens whose config.json names no later version, though it reads them correctly."""
    if str(files.config.get("model_type", "")).startswith("mistral"):
        yield
        return
    logger = logging.getLogger("transformers.tokenization_utils_base")
    logger.addFilter(_is_no_mistral_warning)
    try:
        yield
    finally:
        logger.removeFilter(_is_no_mistral_warning)


def _is_no_mistral_warning(record: logging.LogRecord) -> bool:
    return "fix_mistral_regex" not in str(record.msg)


def _load_error(error: Exception, files: TokenizerFiles, version: str) -> str:
    if "trust_remote_code" in str(error):
        return (
            f"The tokenizer of {files.directory} is code of the checkpoint ({files.code}), and no code of a checkpoint "
            f"is run. {KNOWN_CLASS_REMEDY}"
        )
    if "does not exist or is not currently imported" in str(error):
        return (
            f"The tokenizer of {files.directory} is of the class {files.named_class}, which transformers {version} has "
            f"not. {KNOWN_CLASS_REMEDY}"
        )
    if culprit := files.unreadable():
        return f"{culprit} Put the checkpoint's own there."
    return (
        f"The tokenizer of {files.directory} cannot be loaded: {_first_line(error)} transformers {version} read "
        f"{files.named}. Put the tokenizer files of the checkpoint there again, all of the same revision."
    )


KNOWN_CLASS_REMEDY: Final = (
    "Put tokenizer files of a class that it has itself there: a tokenizer.json, and a tokenizer_config.json without "
    "auto_map whose tokenizer_class is PreTrainedTokenizerFast."
)


def _check_template(tokenizer: Tokenizer, files: TokenizerFiles) -> None:
    """Raises TokenizerInvalid for a template that no message can be rendered with."""
    if not tokenizer.has_chat_template:
        return
    found = tokenizer.library.chat_template
    if not all(isinstance(each, str) for each in (found.values() if isinstance(found, dict) else [found])):
        raise TokenizerInvalid(
            f"The chat template in {files.template_file} is no text. Put the checkpoint's own there, or remove it."
        )
    from jinja2 import TemplateSyntaxError

    try:
        tokenizer.render_chat(GREETING)
    except TemplateSyntaxError as error:
        raise TokenizerInvalid(
            f"The chat template in {files.template_file} is no valid Jinja: {error.message} (line {error.lineno}). "
            "Put the checkpoint's own there."
        ) from error
    except Exception:  # noqa: S110 - clients get the error when they use the template
        pass


def _first_line(error: Exception) -> str:
    """The first line of an error, as a sentence."""
    line = (str(error).strip().splitlines() or [type(error).__name__])[0].strip()
    line = f"{type(error).__name__}: {line}" if isinstance(error, LookupError | TypeError | AttributeError) else line
    line = shown(line)
    return line if line.endswith((".", "!", "?", "…")) else f"{line}."
