"""Between text and tokens: the checkpoint's own tokenizer and chat template, and text that appears token by token."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from neuronmodel_worker.failures import BadInput
from neuronmodel_worker.serve.tokenizer import Tokenizer, read_settings, read_tokenizer

REPLACEMENT = "\ufffd"


class TokenizerInvalid(BadInput):
    reason = "TokenizerInvalid"


class ChatTemplateError(ValueError):
    """The template does not take these messages, or there is none. A sentence for the client."""


@dataclass(frozen=True)
class Text:
    """`end_tokens` end an answer."""

    tokenizer: Tokenizer
    end_tokens: frozenset[int]

    def encode(self, text: str) -> list[int]:
        return self.tokenizer.encode(text)

    def encode_chat(self, messages: Sequence[Mapping[str, Any]]) -> list[int]:
        """Raises ChatTemplateError."""
        if not self.tokenizer.chat_template:
            raise ChatTemplateError("This model's tokenizer has no chat template. Use /v1/completions.")
        try:
            text = self.tokenizer.render_chat(messages)
        except Exception as error:  # a template is a program of the checkpoint's author: it may raise anything
            raise ChatTemplateError(f"The model's chat template does not take these messages: {error}") from error
        return self.tokenizer.encode(text, add_special_tokens=False)

    def detokenizer(self) -> "Detokenizer":
        return Detokenizer(self.tokenizer)

    @property
    def vocabulary(self) -> int:
        return self.tokenizer.size


def load_text(source: Path, generation_config: Mapping[str, Any]) -> Text:
    """`generation_config` of the spec beats the checkpoint's files. Raises TokenizerInvalid."""
    try:
        tokenizer = read_tokenizer(source)
    except Exception as error:  # whatever its files make the library raise, it is the files
        what = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise TokenizerInvalid(
            f"The tokenizer of {source} cannot be loaded: {what} Put tokenizer.json and tokenizer_config.json of the "
            "checkpoint there."
        ) from error
    return Text(tokenizer, end_tokens(source, generation_config, tokenizer.end_token))


def end_tokens(source: Path, generation_config: Mapping[str, Any], of_tokenizer: int | None) -> frozenset[int]:
    """The first that says something: the spec, generation_config.json, config.json, the tokenizer."""
    for settings in (generation_config, _json(source / "generation_config.json"), _json(source / "config.json")):
        value = settings.get("eos_token_id")
        if value is not None:
            return frozenset(value if isinstance(value, list) else [value])
    return frozenset() if of_tokenizer is None else frozenset({of_tokenizer})


def _json(file: Path) -> Mapping[str, Any]:
    try:
        return read_settings(file)
    except (OSError, ValueError):
        return {}


@dataclass
class Detokenizer:
    """Text as tokens arrive. A token may hold half a character, and may change how the one before is written, so text
    is the difference between two decodings that begin at the same earlier token."""

    tokenizer: Tokenizer
    _tokens: list[int] = field(default_factory=list)
    _context: int = 0
    """Where the decodings begin: a little before the first token that is not told yet."""
    _told: int = 0

    def push(self, token: int) -> str:
        """The text that is certain now; "" while a character is incomplete."""
        self._tokens.append(token)
        before, now = self._decode(self._context, self._told), self._decode(self._context, None)
        if len(now) <= len(before) or now.endswith(REPLACEMENT):
            return ""
        self._context, self._told = self._told, len(self._tokens)
        return now[len(before) :]

    def rest(self) -> str:
        """What was held back, incomplete characters as U+FFFD."""
        before, now = self._decode(self._context, self._told), self._decode(self._context, None)
        self._context = self._told = len(self._tokens)
        return now[len(before) :]

    def _decode(self, start: int, stop: int | None) -> str:
        return self.tokenizer.decode(self._tokens[start:stop])


@dataclass
class StopText:
    """Finds stop strings in text that arrives in pieces; nothing of a stop string is ever told."""

    stops: tuple[str, ...]
    _held: str = ""

    def push(self, text: str) -> tuple[str, bool]:
        """What may be told, and whether a stop string came."""
        self._held += text
        found = [at for stop in self.stops if (at := self._held.find(stop)) >= 0]
        if found:
            told, self._held = self._held[: min(found)], ""
            return told, True
        keep = max((self._overlap(stop) for stop in self.stops), default=0)
        told = self._held[: len(self._held) - keep]
        self._held = self._held[len(self._held) - keep :]
        return told, False

    def rest(self) -> str:
        return self._held

    def _overlap(self, stop: str) -> int:
        """How much of the held text's end could be the beginning of `stop`."""
        longest = min(len(stop) - 1, len(self._held))
        return next((size for size in range(longest, 0, -1) if self._held.endswith(stop[:size])), 0)
