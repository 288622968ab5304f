"""Text that is generated token by token, and stop strings in it."""

from collections.abc import Sequence
from dataclasses import InitVar, dataclass, field
from typing import Final

from neuronmodel_worker.text.tokenizer import Tokenizer

REPLACEMENT: Final = "\ufffd"
LONGEST_CHARACTER: Final = 8
"""How many tokens a character may have: it has at most four bytes, so that twice as many tokens are no character."""
CONTEXT: Final = 8
"""How many tokens at the end of a prompt an answer is decoded with: some decoders remove a space at the beginning."""


@dataclass
class Detokenizer:
    """Decodes tokens as they arrive, such that the prompt and the answer, encoded together, give the tokens of both.

    A token may contain a part of a character, and may change how the one before it is decoded. So the text of a token
    is the difference between two decodings that begin at the same earlier token. Special tokens of an answer are no
    text.
    """

    tokenizer: Tokenizer
    prompt: InitVar[Sequence[int]] = ()
    _tokens: list[int] = field(default_factory=list)
    _context: int = 0
    """Where the decodings begin: a little before the first token that is not emitted yet."""
    _emitted: int = 0
    _after_special: int | None = None
    """The special token at the end of the prompt, until the first text is emitted."""

    def __post_init__(self, prompt: Sequence[int]) -> None:
        beginning = self.tokenizer.beginning
        asked = prompt[len(beginning) :] if tuple(prompt[: len(beginning)]) == beginning else prompt
        tail = list(asked[-CONTEXT:])
        if not tail or self.tokenizer.decode(tail).endswith(REPLACEMENT):
            return
        self._tokens, self._emitted = tail, len(tail)
        if tail[-1] in self.tokenizer.special_tokens:
            self._after_special = tail[-1]

    def push(self, token: int) -> str:
        """Add a token. Returns the text that is certain now; "" while a character is incomplete."""
        if token in self.tokenizer.special_tokens:
            return ""
        self._tokens.append(token)
        before, now = self._decode(self._emitted), self._decode(None)
        is_incomplete = now.endswith(REPLACEMENT) and len(self._tokens) - self._emitted < LONGEST_CHARACTER
        if len(now) <= len(before) or is_incomplete:
            return ""
        if self._after_special is not None and not self.tokenizer.decode(self._tokens[self._emitted :]):
            return ""  # a space: only the next token shows whether the tokenizer has added it
        return self._emit(now[len(before) :])

    def rest(self) -> str:
        """The rest of the text, with incomplete characters as U+FFFD."""
        before, now = self._decode(self._emitted), self._decode(None)
        return self._emit(now[len(before) :])

    def _emit(self, text: str) -> str:
        if self._after_special is not None and text:
            text = self._after_special_token(text, self._after_special)
            self._after_special = None
        self._context, self._emitted = self._emitted, len(self._tokens)
        return text

    def _after_special_token(self, text: str, special: int) -> str:
        """The text after a special token, without a space that the tokenizer adds itself: some add one before each
        piece of text that follows a special token, others only at the beginning of the whole text."""
        new = self._tokens[self._emitted :]
        alone = self.tokenizer.decode(new)
        if alone == text or not text.endswith(alone):
            return text
        written = self.tokenizer.text_of(special) + alone
        return alone if self.tokenizer.encode(written, add_special_tokens=False) == [special, *new] else text

    def _decode(self, stop: int | None) -> str:
        return self.tokenizer.decode(self._tokens[self._context : stop])


@dataclass
class StopText:
    """Finds stop strings in text that arrives in pieces; no part of a stop string is emitted."""

    stops: tuple[str, ...]
    _pending: str = ""

    def push(self, text: str) -> tuple[str, bool]:
        """Add a piece of text. Returns the text that may be emitted, and whether a stop string was found."""
        self._pending += text
        found = [at for stop in self.stops if (at := self._pending.find(stop)) >= 0]
        if found:
            emitted, self._pending = self._pending[: min(found)], ""
            return emitted, True
        keep = max((self._overlap(stop) for stop in self.stops), default=0)
        emitted = self._pending[: len(self._pending) - keep]
        self._pending = self._pending[len(self._pending) - keep :]
        return emitted, False

    def rest(self) -> str:
        return self._pending

    def _overlap(self, stop: str) -> int:
        """How many characters at the end of the pending text could be the beginning of `stop`."""
        longest = min(len(stop) - 1, len(self._pending))
        return next((size for size in range(longest, 0, -1) if self._pending.endswith(stop[:size])), 0)
