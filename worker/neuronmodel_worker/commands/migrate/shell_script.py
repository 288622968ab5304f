"""Finds the `inference_demo` command in a shell's text: its arguments, and the environment it would be given.

Only the text itself counts: no variable of this process, no file, and no command's output.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Final

from neuronmodel_worker.commands.migrate.not_understood import NotUnderstood
from neuronmodel_worker.commands.migrate.shell_arithmetic import evaluate
from neuronmodel_worker.commands.migrate.shell_words import INPUTS, REDIRECTIONS, ShellOperator, Token, Word, tokens_of

ASSIGNMENT = re.compile(r"([A-Za-z_]\w*)(\+?)=(.*)", re.ASCII | re.DOTALL)
INFERENCE_DEMO: Final = ("inference_demo", "inference_demo.py")
MODULE: Final = "neuronx_distributed_inference.inference_demo"
PYTHON = re.compile(r"python(3(\.\d+)?)?", re.ASCII)
COMMAND_PREFIXES: Final = ("time", "nohup", "exec", "command", "env")
"""Commands that run what follows them."""
WITHOUT_EFFECT: Final = (
    "echo",
    "printf",
    "mkdir",
    "cd",
    "date",
    "true",
    ":",
    "sleep",
    "ls",
    "pwd",
    "neuron-ls",
    "exit",
)
"""Commands that do not affect the model."""
HARMLESS_SETTINGS: Final = "eux"
PIPES: Final = ("|", "|&")
SEPARATORS: Final = frozenset({"\n", ";", "&", "&&"})


@dataclass(frozen=True)
class ShellText:
    """A piece of the text with its variables expanded, and its line."""

    text: str
    line: int


@dataclass(frozen=True)
class Invocation:
    """The command. `arguments` follow the command's name. `environment` is what the text exports to it, `unexported`
    what is only assigned. `output` is where its output is redirected, as written, or None."""

    line: int
    arguments: tuple[ShellText, ...]
    environment: Mapping[str, ShellText]
    unexported: Mapping[str, ShellText]
    output: ShellText | None


def read_invocation(text: str) -> Invocation:
    """Raises NotUnderstood."""
    script = _Script()
    for statement in _Statements().of(tokens_of(text)):
        script.run(statement)
    if script.invocation is None:
        raise NotUnderstood(text.count("\n") + 1, "The text ends, and no inference_demo command was in it.")
    return script.invocation


@dataclass
class _Statement:
    line: int
    words: list[Word] = field(default_factory=list)
    output: list[ShellText] = field(default_factory=list)
    piped_to: list[Word] = field(default_factory=list)


class _Statements:
    """Groups tokens into commands with the redirections of their output."""

    def __init__(self) -> None:
        self._current = _Statement(1)
        self._redirection: ShellOperator | None = None
        self._piped = False

    def of(self, tokens: Iterable[Token]) -> Iterator[_Statement]:
        """Yields the statements. Raises NotUnderstood."""
        for token in tokens:
            if isinstance(token, Word):
                self._take(token)
            elif token.text in SEPARATORS and not self._is_open:
                yield from self._ended(token.line)
            elif not (self._is_open and token.text == "\n" and self._redirection is None):
                self._operate(token)
        if self._is_open:
            raise NotUnderstood(self._current.line, "The text ends amid a command.")
        yield from self._ended(0)

    @property
    def _is_open(self) -> bool:
        """Whether a word has to follow; after | a line's end may come first."""
        return self._redirection is not None or (self._piped and not self._current.piped_to)

    def _ended(self, line: int) -> Iterator[_Statement]:
        if self._current.words:
            yield self._current
        self._current, self._piped = _Statement(line), False

    def _take(self, word: Word) -> None:
        statement, text = self._current, _written(word)
        if self._redirection is not None:
            text = f"{self._redirection.descriptor}{self._redirection.text}{text}"
            self._redirection = None
        elif self._piped:
            statement.piped_to.append(word)
        else:
            statement.line = statement.line if statement.words else word.line
            statement.words.append(word)
            return
        statement.output.append(ShellText(text, word.line))

    def _operate(self, operator: ShellOperator) -> None:
        if self._is_open:
            raise NotUnderstood(operator.line, f"{_shown(operator)} is not understood here.")
        if operator.text in INPUTS:
            raise NotUnderstood(operator.line, "What comes from a file or a here-document is not read. Leave it out.")
        if operator.text in REDIRECTIONS:
            self._redirection = operator
        elif operator.text in PIPES and self._current.words:
            self._current.output.append(ShellText(operator.text, operator.line))
            self._piped = True
        else:
            raise NotUnderstood(
                operator.line,
                f"{_shown(operator)} is not understood. Give the assignments, the exports and the command alone.",
            )


def _shown(operator: ShellOperator) -> str:
    return "The line's end" if operator.text == "\n" else operator.text


def _written(word: Word) -> str:
    signs = {"variable": "${%s}", "arithmetic": "$((%s))", "text": "%s"}
    return "".join(signs[piece.kind] % piece.text for piece in word.pieces)


def _joined_output(output: list[ShellText]) -> ShellText | None:
    return ShellText(" ".join(text.text for text in output), output[0].line) if output else None


class _Script:
    def __init__(self) -> None:
        self._values: dict[str, ShellText] = {}
        self._exported: set[str] = set()
        self.invocation: Invocation | None = None

    def run(self, statement: _Statement) -> None:
        """Raises NotUnderstood."""
        if statement.piped_to and statement.piped_to[0].literal != "tee":
            raise NotUnderstood(
                statement.piped_to[0].line, "What | hands the output to is not understood. Leave it out, or use tee."
            )
        words = list(statement.words)
        prefix: dict[str, ShellText] = {}
        while words and (assigned := self._assignment(words[0])):
            prefix |= [assigned]
            words.pop(0)
        if not words:
            self._values |= prefix
            return
        name = words[0].literal
        if name == "export":
            self._export(words[1:])
            return
        arguments = [text for word in words for text in self._fields(word)]
        if not arguments:
            return
        self._command(statement, arguments, prefix)

    def _command(self, statement: _Statement, arguments: list[ShellText], prefix: dict[str, ShellText]) -> None:
        command, *rest = arguments
        while command.text in COMMAND_PREFIXES and rest:
            command, *rest = rest
            while match := ASSIGNMENT.fullmatch(command.text):
                prefix[match[1]] = ShellText(match[3], command.line)
                if not rest:
                    raise _unknown(command)
                command, *rest = rest
        if (found := _inference_demo_arguments(command, rest)) is not None:
            self._record_invocation(statement, command.line, found, prefix)
        elif command.text == "unset" and not any(each.text.startswith("-") for each in rest):
            for each in rest:
                self._values.pop(each.text, None)
                self._exported.discard(each.text)
        elif not _without_effect(command.text, [each.text for each in rest]):
            raise _unknown(command)

    def _record_invocation(
        self, statement: _Statement, line: int, arguments: tuple[ShellText, ...], prefix: Mapping[str, ShellText]
    ) -> None:
        if self.invocation is not None:
            raise NotUnderstood(
                line, f"This is another inference_demo; the first is in line {self.invocation.line}. Give one alone."
            )
        exported = {name: text for name, text in self._values.items() if name in self._exported}
        self.invocation = Invocation(
            line=line,
            arguments=arguments,
            environment={**exported, **prefix},
            unexported={name: text for name, text in self._values.items() if name not in {*exported, *prefix}},
            output=_joined_output(statement.output),
        )

    def _export(self, words: list[Word]) -> None:
        for word in words:
            if assigned := self._assignment(word):
                name, text = assigned
                self._values[name] = text
            else:
                name = word.literal or ""
                if not re.fullmatch(r"[A-Za-z_]\w*", name, re.ASCII):
                    raise NotUnderstood(word.line, "export is understood with NAME or NAME=value alone.")
            self._exported.add(name)

    def _assignment(self, word: Word) -> tuple[str, ShellText] | None:
        """Returns name and value if `word` is an assignment."""
        bare = ""
        for piece in word.pieces:
            if piece.kind != "text" or piece.quoted:
                break
            bare += piece.text
        match = ASSIGNMENT.match(bare)
        if not match:
            return None
        if match[2]:
            raise NotUnderstood(word.line, f"{match[1]}+= is not understood. Write the whole value.")
        expanded = "".join(text for text, _ in self._expanded(word))
        return match[1], ShellText(expanded[len(match[1]) + 1 :], word.line)

    def _fields(self, word: Word) -> list[ShellText]:
        """Splits a word as a shell would: an unquoted variable may become several fields, or none."""
        fields, current = list[str](), None
        for text, splits in self._expanded(word):
            if not splits:
                current = (current or "") + text
                continue
            for part in re.split(r"([ \t\n]+)", text):
                if part.strip(" \t\n"):
                    current = (current or "") + part
                elif part and current is not None:
                    fields.append(current)
                    current = None
        if current is not None:
            fields.append(current)
        return [ShellText(text, word.line) for text in fields]

    def _expanded(self, word: Word) -> Iterable[tuple[str, bool]]:
        """Yields texts, and whether a shell would split them."""
        for piece in word.pieces:
            if piece.kind == "text":
                yield piece.text, False
            elif piece.kind == "arithmetic":
                yield str(evaluate(piece.text, self._value, piece.line)), False
            else:
                value = self._value(piece.text, piece.line)
                if not piece.quoted and re.search(r"[*?\[]", value):
                    raise NotUnderstood(
                        piece.line, f"${piece.text} holds a pattern of names, which only a shell can find. Quote it."
                    )
                yield value, not piece.quoted

    def _value(self, name: str, line: int) -> str:
        if name not in self._values:
            raise NotUnderstood(
                line,
                f"{name} has no value: the lines before do not assign it, and nothing else is looked at. Add {name}=…",
            )
        return self._values[name].text


def _inference_demo_arguments(command: ShellText, rest: list[ShellText]) -> tuple[ShellText, ...] | None:
    if PurePosixPath(command.text).name in INFERENCE_DEMO:
        return tuple(rest)
    if not PYTHON.fullmatch(PurePosixPath(command.text).name):
        return None
    while rest and rest[0].text == "-u":
        rest = rest[1:]
    if [each.text for each in rest[:2]] == ["-m", MODULE]:
        return tuple(rest[2:])
    if rest and PurePosixPath(rest[0].text).name in INFERENCE_DEMO:
        return tuple(rest[1:])
    return None


def _without_effect(command: str, arguments: list[str]) -> bool:
    if command in ("source", "."):  # what other scripts do is not known
        return len(arguments) == 1 and arguments[0].endswith("/bin/activate")
    if command == "set":
        options = [each for each in arguments if each != "pipefail"]
        return all(re.fullmatch(f"[-+][{HARMLESS_SETTINGS}]*o?", each) for each in options)
    return command in WITHOUT_EFFECT


def _unknown(command: ShellText) -> NotUnderstood:
    return NotUnderstood(
        command.line,
        f"The command {command.text!r} is not understood: assignments, exports and one inference_demo are. Leave it "
        "out where it changes nothing, or write out what it sets.",
    )
