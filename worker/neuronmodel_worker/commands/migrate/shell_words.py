"""Splits a shell's text into words and operators. Nothing is expanded, and nothing is ever executed."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal

from neuronmodel_worker.commands.migrate.not_understood import NotUnderstood

OPERATORS: Final = (
    "&>>",
    "<<<",
    "&&",
    "||",
    ";;",
    "&>",
    ">&",
    ">>",
    ">|",
    "<<",
    "<&",
    "|&",
    ";",
    "&",
    "|",
    "<",
    ">",
    "(",
    ")",
)
REDIRECTIONS: Final = frozenset({">", ">>", ">|", ">&", "&>", "&>>"})
INPUTS: Final = frozenset({"<", "<<", "<<<", "<&"})
NAME = re.compile(r"[A-Za-z_]\w*", re.ASCII)
BLANKS: Final = " \t"
ENDS_A_WORD: Final = BLANKS + "\n;&|<>()"
PATTERNS: Final = "*?[]{}"


@dataclass(frozen=True)
class WordPart:
    """Part of a word. `text` is the literal text, a variable's name, or the inside of `$((…))`."""

    kind: Literal["text", "variable", "arithmetic"]
    text: str
    quoted: bool
    line: int


@dataclass(frozen=True)
class Word:
    """A word, and the line on which it begins."""

    pieces: tuple[WordPart, ...]
    line: int

    @property
    def literal(self) -> str | None:
        """The word's text if nothing in it is quoted or expanded, otherwise None."""
        if all(piece.kind == "text" and not piece.quoted for piece in self.pieces):
            return "".join(piece.text for piece in self.pieces)
        return None


@dataclass(frozen=True)
class ShellOperator:
    """`text` is one of OPERATORS, or a line's end."""

    text: str
    line: int
    descriptor: str = ""
    """The descriptor of a redirection, as in `2>&1`."""


Token = Word | ShellOperator


def tokens_of(text: str) -> Iterator[Token]:
    """Raises NotUnderstood."""
    return _Lexer(text.replace("\r\n", "\n")).tokens()


class _Lexer:
    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._line = 1

    def tokens(self) -> Iterator[Token]:
        while self._next:
            if self._next in BLANKS or self._continues():
                self._take(1)
            elif self._next == "\n":
                yield ShellOperator("\n", self._line)
                self._take(1)
            elif self._next == "#":
                self._take(len(self._until("\n")))
            elif descriptor := self._descriptor():
                self._take(len(descriptor))
                yield self._operator(descriptor)
            elif self._next in ENDS_A_WORD:
                yield self._operator()
            else:
                yield self._word()

    @property
    def _next(self) -> str:
        return self._text[self._at : self._at + 1]

    def _ahead(self, text: str) -> bool:
        return self._text.startswith(text, self._at)

    def _take(self, count: int) -> str:
        taken = self._text[self._at : self._at + count]
        self._at += count
        self._line += taken.count("\n")
        return taken

    def _until(self, end: str) -> str:
        found = self._text.find(end, self._at)
        return self._text[self._at : found if found >= 0 else len(self._text)]

    def _continues(self) -> bool:
        """Consumes a backslash at the end of a line, which joins the next line to it. The line's end is left to the
        caller."""
        if not self._ahead("\\\n"):
            return False
        self._take(1)
        return True

    def _descriptor(self) -> str:
        match = re.compile(r"\d+(?=[<>])", re.ASCII).match(self._text, self._at)
        return match[0] if match else ""

    def _operator(self, descriptor: str = "") -> ShellOperator:
        line = self._line
        return ShellOperator(self._take(len(next(filter(self._ahead, OPERATORS)))), line, descriptor)

    def _word(self) -> Word:
        line, pieces = self._line, list[WordPart]()
        while self._next and self._next not in ENDS_A_WORD:
            if not self._continues():
                pieces += self._pieces(pieces)
            else:
                self._take(1)
        return Word(tuple(pieces), line)

    def _pieces(self, before: list[WordPart]) -> list[WordPart]:
        if self._next == "'":
            return [self._single_quoted()]
        if self._next == '"':
            return self._double_quoted()
        if self._next == "\\":
            self._take(1)
            return [WordPart("text", self._take(1), True, self._line)]
        if self._next in "$`":
            return [self._expansion(quoted=False)]
        self._refuse_what_depends(before)
        return [WordPart("text", self._take(1), False, self._line)]

    def _refuse_what_depends(self, before: list[WordPart]) -> None:
        if self._next in PATTERNS:
            raise NotUnderstood(
                self._line,
                f"An unquoted {self._next} stands for names that only a shell can find. Write them out, or quote it.",
            )
        begins = not before or (before[-1].text == "=" and not before[-1].quoted)
        if self._next == "~" and begins:
            raise NotUnderstood(self._line, "~ is a folder that only a shell knows. Write the path out.")

    def _single_quoted(self) -> WordPart:
        line = self._line
        self._take(1)
        inside = self._until("'")
        if self._at + len(inside) == len(self._text):
            raise NotUnderstood(line, "A ' has no other one that ends the quotation.")
        piece = WordPart("text", self._take(len(inside)), True, line)
        self._take(1)
        return piece

    def _double_quoted(self) -> list[WordPart]:
        line = self._line
        self._take(1)
        pieces = [WordPart("text", "", True, line)]
        while self._next != '"':
            if not self._next:
                raise NotUnderstood(line, 'A " has no other one that ends the quotation.')
            if self._ahead("\\\n"):
                self._take(2)
            elif self._next == "\\" and self._text[self._at + 1 : self._at + 2] in ("$", "`", '"', "\\"):
                self._take(1)
                pieces.append(WordPart("text", self._take(1), True, self._line))
            elif self._next in "$`":
                pieces.append(self._expansion(quoted=True))
            else:
                pieces.append(WordPart("text", self._take(1), True, self._line))
        self._take(1)
        return pieces

    def _expansion(self, quoted: bool) -> WordPart:
        line = self._line
        if self._ahead("$(("):
            return self._arithmetic(quoted)
        if self._ahead("$(") or self._next == "`":
            raise NotUnderstood(line, "What a command prints is not known, for nothing is executed. Write it out.")
        self._take(1)
        if self._next == "{":
            return self._braced(quoted)
        if name := NAME.match(self._text, self._at):
            self._take(len(name[0]))
            return WordPart("variable", name[0], quoted, line)
        if self._next and (self._next in "@*#?$!-0123456789" or (self._next in "'\"" and not quoted)):
            raise NotUnderstood(line, f"${self._next} is not understood. Write what it stands for.")
        return WordPart("text", "$", True, line)

    def _braced(self, quoted: bool) -> WordPart:
        line = self._line
        self._take(1)
        inside = self._take(len(self._until("}")))
        if not NAME.fullmatch(inside) or not self._take(1):
            raise NotUnderstood(line, f"${{{inside}}} is not understood: only ${{NAME}} is. Write what it stands for.")
        return WordPart("variable", inside, quoted, line)

    def _arithmetic(self, quoted: bool) -> WordPart:
        line = self._line
        self._take(3)
        depth, inside = 0, ""
        while self._next and (depth or not self._ahead("))")):
            depth += {"(": 1, ")": -1}.get(self._next, 0)
            inside += self._take(1)
        if self._take(2) != "))":
            raise NotUnderstood(line, "$(( has no )) that ends it.")
        return WordPart("arithmetic", inside, quoted, line)
