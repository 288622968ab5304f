"""The words of a shell's text, as parts that are literal or to be expanded. Nothing is expanded here, and nothing is
ever executed."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal

from neuronmodel_worker.commands.migrate.not_understood import NotUnderstood

NAME = re.compile(r"[A-Za-z_]\w*", re.ASCII)
BRACED = re.compile(r"([A-Za-z_]\w*|[1-9])(?:(:?[-=])(.*))?", re.ASCII | re.DOTALL)
QUOTED = re.compile(r"[\"'\\~]")
BLANKS: Final = " \t\n"
OPERATORS: Final = ";&|<>()"
ENDS_A_WORD: Final = BLANKS + OPERATORS
CONTINUES: Final = "\\\n"
PATTERNS: Final = "*?[]{}"
OTHER_BLANKS: Final = re.compile("[\u00a0\u1680\u2000-\u200b\u202f\u205f\u3000\ufeff]")
HOME_UNKNOWN: Final = "~ is a folder that only a shell knows. Write the path out."
OUTPUT_UNKNOWN: Final = "What a command prints is not known, for nothing is executed. Write it out."


@dataclass(frozen=True)
class WordPart:
    """Part of a word. `text` is the literal text, a variable's name, the inside of `$((…))`, or what is written where
    a command's output or a home folder would stand. `default` is the text of `${NAME:-text}`."""

    kind: Literal["text", "variable", "arithmetic", "output", "home"]
    text: str
    quoted: bool
    line: int
    default: "tuple[WordPart, ...] | None" = None
    fills_empty: bool = False
    """Whether the default also stands for an empty value, as in `${NAME:-text}`, or only for none."""
    assigns: bool = False
    """Whether the variable is given the default, as by `${NAME:=text}`."""


@dataclass(frozen=True)
class Word:
    """A word, and the line on which it begins."""

    pieces: tuple[WordPart, ...]
    line: int


def words_of(text: str, line: int) -> list[Word]:
    """The words of one command, which begins at `line`. Raises NotUnderstood."""
    return list(_Lexer(text, line).words())


class _Lexer:
    def __init__(self, text: str, line: int) -> None:
        self._text = text
        self._at = 0
        self._line = line

    def words(self) -> Iterator[Word]:
        while self._next:
            if self._ahead(CONTINUES):
                self._take(len(CONTINUES))
            elif self._next in BLANKS:
                self._take(1)
            elif self._next == "#":
                self._take(len(self._text[self._at :].partition("\n")[0]))
            elif self._next in OPERATORS:
                before = self._text[self._at - 1 : self._at]
                what = "An array" if self._next == "(" and before == "=" else self._next
                raise NotUnderstood(self._line, f"{what} is not followed. Write what it stands for where it is used.")
            else:
                line = self._line
                yield Word(tuple(self._pieces()), line)

    def _pieces(self) -> Iterator[WordPart]:
        start, bare_before = self._at, ""
        while self._next and self._next not in ENDS_A_WORD:
            if self._next == "'":
                yield self._single_quoted()
            elif self._next == '"':
                yield from self._double_quoted()
            elif self._ahead(CONTINUES):
                self._take(len(CONTINUES))
            elif self._next == "\\":
                self._take(1)
                yield WordPart("text", self._take(1), True, self._line)
            elif self._next in "$`":
                yield self._expansion(quoted=False)
            elif self._next == "~" and (self._at == start or bare_before == "="):
                yield WordPart("home", self._take(1), True, self._line)
            else:
                self._refuse_what_depends()
                bare_before = self._take(1)
                yield WordPart("text", bare_before, False, self._line)
                continue
            bare_before = ""

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

    def _take_to(self, end: str) -> str | None:
        """The text before `end`, which is taken as well; None if there is none."""
        found = self._text.find(end, self._at)
        if found < 0:
            return None
        taken = self._take(found - self._at)
        self._take(len(end))
        return taken

    def _refuse_what_depends(self) -> None:
        if self._next in PATTERNS:
            raise NotUnderstood(
                self._line,
                f"An unquoted {self._next} stands for names that only a shell can find. Write them out, or quote it.",
            )
        if OTHER_BLANKS.match(self._next):
            raise NotUnderstood(
                self._line,
                f"{self._text[:60]!r} holds a blank that is none to a shell, such as the no-break space of a web page. "
                "Put an ordinary one in its place.",
            )

    def _single_quoted(self) -> WordPart:
        line = self._line
        self._take(1)
        inside = self._take_to("'")
        if inside is None:
            raise NotUnderstood(line, "A ' has no other one that ends the quotation.")
        return WordPart("text", inside, True, line)

    def _double_quoted(self) -> Iterator[WordPart]:
        line = self._line
        self._take(1)
        yield WordPart("text", "", True, line)
        while self._next != '"':
            if not self._next:
                raise NotUnderstood(line, 'A " has no other one that ends the quotation.')
            if self._ahead("\\\n"):
                self._take(2)
            elif self._next == "\\" and self._text[self._at + 1 : self._at + 2] in ("$", "`", '"', "\\"):
                self._take(1)
                yield WordPart("text", self._take(1), True, self._line)
            elif self._next in "$`":
                yield self._expansion(quoted=True)
            else:
                yield WordPart("text", self._take(1), True, self._line)
        self._take(1)

    def _expansion(self, quoted: bool) -> WordPart:
        line = self._line
        if self._ahead("$(("):
            return WordPart("arithmetic", self._parenthesized(2), quoted, line)
        if self._ahead("$("):
            return WordPart("output", f"$({self._parenthesized(1)})", quoted, line)
        if self._next == "`":
            self._take(1)
            inside = self._take_to("`")
            if inside is None:
                raise NotUnderstood(line, "A ` has no other one that ends it.")
            return WordPart("output", f"`{inside}`", quoted, line)
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
        inside = self._balanced("{", "}")
        found = BRACED.fullmatch(inside)
        if not found or (found[3] and QUOTED.search(found[3])):
            raise NotUnderstood(
                line,
                f"${{{inside}}} is not understood: only ${{NAME}}, ${{NAME:-text}} and ${{NAME:=text}} are. Write what "
                "it stands for.",
            )
        if found[2] is None:
            if found[1].isdigit():
                raise NotUnderstood(line, f"${{{inside}}} is what a script is called with. Write what it stands for.")
            return WordPart("variable", found[1], quoted, line)
        default = tuple(_Lexer(f'"{found[3]}"', line).quoted_pieces())
        return WordPart("variable", found[1], quoted, line, default, found[2][0] == ":", "=" in found[2])

    def quoted_pieces(self) -> Iterator[WordPart]:
        yield from self._double_quoted()

    def _balanced(self, opens: str, closes: str) -> str:
        """The text up to the bracket that closes the one before it, which is taken as well."""
        line, depth, start = self._line, 1, self._at
        while self._next:
            depth += {opens: 1, closes: -1}.get(self._next, 0)
            self._take(1)
            if not depth:
                return self._text[start : self._at - 1]
        raise NotUnderstood(line, f"A {opens} has no {closes} that ends it.")

    def _parenthesized(self, count: int) -> str:
        """The inside of `$(…)` or `$((…))`."""
        line = self._line
        self._take(1 + count)
        depth, inside = 0, ""
        while self._next and (depth or not self._ahead(")" * count)):
            depth += {"(": 1, ")": -1}.get(self._next, 0)
            inside += self._take(1)
        if self._take(count) != ")" * count:
            raise NotUnderstood(line, f"${'(' * count} has no {')' * count} that ends it.")
        return inside
