"""Text that appears token by token, and stop strings in it."""

from collections.abc import Sequence
from dataclasses import InitVar, dataclass, field
from typing import Final

from neuronmodel_worker.text.tokenizer import Tokenizer

REPLACEMENT: Final = "\ufffd"
LONGEST_CHARACTER: Final = 8
"""Tokens: a character has four bytes at most, and what is still none after twice as many is no character."""
CONTEXT: Final = 8
"""Tokens of a prompt's end that an answer is decoded behind: some decoders take a space from where a text begins."""


@dataclass
class Detokenizer:
    """Text as tokens arrive, such that the prompt and the answer, encoded together, give the tokens of both.

    A token may hold half a character, and may change how the one before is written, so text is the difference between
    two decodings that begin at the same earlier token, in the prompt at first. Special tokens of an answer are no text.
    """

    tokenizer: Tokenizer
    prompt: InitVar[Sequence[int]] = ()
    _tokens: list[int] = field(default_factory=list)
    _context: int = 0
    """Where the decodings begin: a little before the first token that is not told yet."""
    _told: int = 0
    _after_special: int | None = None
    """The special token that the prompt ends with, until the first text is told."""

    def __post_init__(self, prompt: Sequence[int]) -> None:
        beginning = self.tokenizer.beginning
        asked = prompt[len(beginning) :] if tuple(prompt[: len(beginning)]) == beginning else prompt
        tail = list(asked[-CONTEXT:])
        if not tail or self.tokenizer.decode(tail).endswith(REPLACEMENT):
            return
        self._tokens, self._told = tail, len(tail)
        if tail[-1] in self.tokenizer.special_tokens:
            self._after_special = tail[-1]

    def push(self, token: int) -> str:
        """The text that is certain now; "" while a character is incomplete."""
        if token in self.tokenizer.special_tokens:
            return ""
        self._tokens.append(token)
        before, now = self._decode(self._told), self._decode(None)
        is_incomplete = now.endswith(REPLACEMENT) and len(self._tokens) - self._told < LONGEST_CHARACTER
        if len(now) <= len(before) or is_incomplete:
            return ""
        if self._after_special is not None and not self.tokenizer.decode(self._tokens[self._told :]):
            return ""  # a space alone, of which what comes next tells whether it is the tokenizer's own
        return self._tell(now[len(before) :])

    def rest(self) -> str:
        """What was held back, incomplete characters as U+FFFD."""
        before, now = self._decode(self._told), self._decode(None)
        return self._tell(now[len(before) :])

    def _tell(self, text: str) -> str:
        if self._after_special is not None and text:
            text = self._behind_special(text, self._after_special)
            self._after_special = None
        self._context, self._told = self._told, len(self._tokens)
        return text

    def _behind_special(self, text: str, special: int) -> str:
        """Some tokenizers put a space before each piece of text that follows a special token, others only before the
        whole text: what they would put there themselves is not told."""
        new = self._tokens[self._told :]
        alone = self.tokenizer.decode(new)
        if alone == text or not text.endswith(alone):
            return text
        written = self.tokenizer.text_of(special) + alone
        return alone if self.tokenizer.encode(written, add_special_tokens=False) == [special, *new] else text

    def _decode(self, stop: int | None) -> str:
        return self.tokenizer.decode(self._tokens[self._context : stop])


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
