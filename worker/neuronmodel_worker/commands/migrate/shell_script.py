"""Finds the `inference_demo` command in a shell's text: its arguments, and the environment it would be given.

Only the text itself counts: no variable of this process, no file, and no command's output.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Final

from neuronmodel_worker.commands.migrate.not_understood import NotUnderstood
from neuronmodel_worker.commands.migrate.shell_arithmetic import evaluate
from neuronmodel_worker.commands.migrate.shell_tree import ShellTree, line_of, within
from neuronmodel_worker.commands.migrate.shell_words import HOME_UNKNOWN, NAME, OUTPUT_UNKNOWN, Word

if TYPE_CHECKING:
    from tree_sitter import Node

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
NOTEBOOK: Final = ("%%bash", "%%sh", "%%script")
MAX_CHOICE_BYTES: Final = 4096
HARMLESS_SETTINGS: Final = "eux"
LAUNCHERS: Final = {
    **dict.fromkeys(("docker", "podman", "nerdctl", "kubectl"), "a container"),
    **dict.fromkeys(("torchrun", "mpirun", "srun", "accelerate", "deepspeed", "ssh", "sudo", "taskset"), "a launcher"),
    **dict.fromkeys(("bash", "sh", "eval"), "another shell"),
}
"""Commands that run other commands in their own way."""
CONTROL: Final = {
    "if_statement": "if",
    "for_statement": "for",
    "c_style_for_statement": "for",
    "while_statement": "while",
    "case_statement": "case",
    "function_definition": "A function",
    "subshell": "A command in parentheses",
    "compound_statement": "A group of commands",
    "negated_command": "!",
    "test_command": "A test in brackets",
}
CHANGES: Final = frozenset(
    {
        "variable_assignment",
        "declaration_command",
        "unset_command",
        "function_definition",
        "for_statement",
        "c_style_for_statement",
        "((",
    }
)
"""What gives variables other values, or what commands mean."""
ASSIGNING = re.compile(r"=|\+\+|--")
"""In an expansion: `${NAME:=text}`, `$((NAME++))`."""
UNKNOWN: Final = {"output": OUTPUT_UNKNOWN, "home": HOME_UNKNOWN}
PLACEHOLDER = re.compile(r"<[A-Za-z][^<>\n]*>")
HEREDOC: Final = "What comes from a file or a here-document is not read. Leave it out."
REDIRECTION = re.compile(r"(\d*(?:>>|>\||>&|>)|&>>?)\s*", re.ASCII)
ENDLESS = re.compile(r"(?<!\\)((?:\\\\)*)\\\n\s*\Z")
"""A backslash that continues the last line with nothing."""
CUT_SHORT = re.compile(r"(?<!\\)((?:\\\\)*)\\[ \t\u00a0]+\n(?=[ \t]*-)")
"""A backslash that was to continue a line before a flag, with blanks after it: to a shell the command ends there."""


@dataclass(frozen=True)
class ShellText:
    """A piece of the text with its variables expanded, and its line. What is `unknown` of it is there as written, and
    whoever needs the text is told."""

    shown: str
    line: int
    unknown: NotUnderstood | None = None

    @property
    def text(self) -> str:
        """Raises NotUnderstood where a part of it is unknown."""
        if self.unknown:
            raise self.unknown
        return self.shown


@dataclass(frozen=True)
class Correction:
    """A mistake in the text that leaves no doubt about what is meant, and how it was read."""

    line: int
    text: str


@dataclass(frozen=True)
class Invocation:
    """The command. `arguments` follow the command's name. `environment` is what the text exports to it, `unexported`
    what is only assigned. `output` is where its output is redirected, as written, or None."""

    line: int
    arguments: tuple[ShellText, ...]
    environment: Mapping[str, ShellText]
    unexported: Mapping[str, ShellText]
    output: ShellText | None
    used: frozenset[str] = frozenset()
    """The variables that the arguments are made of."""
    corrections: tuple[Correction, ...] = ()


def read_invocation(text: str) -> Invocation:
    """Raises NotUnderstood."""
    text, corrections = _corrected(text.replace("\r\n", "\n"))
    tree = ShellTree(text)
    script = _Script(tree)
    try:
        script.run(tree.root)
    except RecursionError:
        raise NotUnderstood(1, "It is nested too deep. Give the assignments, exports and command alone.") from None
    if script.invocation is None:
        raise NotUnderstood(text.count("\n") + 1, "The text ends, and no inference_demo command was in it.")
    return replace(script.invocation, corrections=corrections)


def _corrected(text: str) -> tuple[str, tuple[Correction, ...]]:
    lines = [text.count("\n", 0, found.start()) + 1 for found in CUT_SHORT.finditer(text)]
    said = "a blank stands behind the backslash, where a shell ends the command; it is read as if it were not there"
    return CUT_SHORT.sub(r"\1\\\n", ENDLESS.sub(r"\1\n", text)), tuple(Correction(line, said) for line in lines)


def invocation_of(arguments: Sequence[str]) -> Invocation:
    """The command that a shell has expanded already. Raises NotUnderstood."""
    words = [ShellText(argument, 1) for argument in arguments]
    found = _inference_demo_arguments(words[0], words[1:]) if words else None
    if found is None:
        raise NotUnderstood(
            1, "These words are no inference_demo command. Give one behind --, or the name of one file with its text."
        )
    return Invocation(1, found, {}, {}, None)


class _Script:
    def __init__(self, tree: ShellTree) -> None:
        self._tree = tree
        self._values: dict[str, ShellText] = {}
        self._exported: set[str] = set()
        self._used: set[str] = set()
        """Variables that the words of this command expand."""
        self.invocation: Invocation | None = None

    def run(self, node: "Node", output: tuple[ShellText, ...] = ()) -> None:
        """Raises NotUnderstood."""
        match node.type:
            case "list" if _is_choice(node) and _changes_nothing(node, self._tree):
                pass
            case "program" | "list":
                for child in self._tree.statements(node):
                    self.run(child)
            case "comment" | ";" | "&" | "&&" | "\n":
                pass
            case "||" | ";;":
                raise NotUnderstood(
                    line_of(node),
                    f"{node.type} is not understood. Give the assignments, the exports and the command alone.",
                )
            case "variable_assignment" | "variable_assignments":
                self._command(node, (), output)
            case "declaration_command":
                self._declare(node)
            case "unset_command":
                self._unset(node)
            case "redirected_statement":
                self._redirected(node, output)
            case "pipeline":
                self._pipeline(node)
            case "command":
                self._command(node, (), output)
            case _:
                self._control(node)

    def _control(self, node: "Node") -> None:
        """What depends on something that only a run knows may be left out where it changes nothing."""
        if _changes_nothing(node, self._tree):
            return
        if node.type == "negated_command":
            self.run(node.children[-1])
            return
        if node.type == "if_statement" and (condition := self._condition_alone(node)):
            for each in condition:
                self.run(each)
            return
        what = CONTROL.get(node.type, f"{self._tree.written(node)[:40]!r}")
        raise NotUnderstood(
            line_of(node),
            f"{what} is not followed, as nothing is executed. Give the assignments, the exports and the command that "
            "it leads to.",
        )

    def _condition_alone(self, node: "Node") -> list["Node"]:
        """The condition of an `if` whose branches change nothing: it runs in any case."""
        then = next(index for index, child in enumerate(node.children) if child.type == "then")
        branches = node.children[then:]
        return node.children[1:then] if all(_changes_nothing(each, self._tree) for each in branches) else []

    def _redirected(self, node: "Node", output: tuple[ShellText, ...]) -> None:
        body, *redirects = node.children
        more, written = list[Word](), list[ShellText]()
        for redirect in redirects:
            sign = REDIRECTION.match(self._tree.written(redirect))
            if redirect.type != "file_redirect" or sign is None:
                raise self._input(redirect)
            # The grammar takes all words behind > for names of files; a shell takes the first.
            words = self._tree.words(redirect, skip=len(sign[0]))
            if not words:
                raise NotUnderstood(line_of(redirect), f"Behind {sign[0].strip()} stands no name of a file.")
            name, *rest = words
            more += rest
            written.append(ShellText(f"{sign[0].strip()}{_written(name)}", line_of(redirect)))
        output = (*written, *output)
        if more and body.type != "command":
            raise NotUnderstood(more[0].line, f"{_written(more[0])!r} is not understood here.")
        if body.type == "command":
            self._command(body, more, output)
        else:
            self.run(body, output)

    def _input(self, node: "Node") -> NotUnderstood:
        line = line_of(node)
        if found := PLACEHOLDER.search(self._tree.text.split("\n")[line - 1]):
            return NotUnderstood(line, f"{found[0]} is a placeholder. Write what belongs in its place.")
        return NotUnderstood(line, HEREDOC)

    def _pipeline(self, node: "Node") -> None:
        first, sign, *rest = node.children
        reader = rest[0].children[0] if rest and rest[0].type == "redirected_statement" else rest[0]
        if reader.type != "command" or self._tree.written(reader).split(maxsplit=1)[0] != "tee":
            raise NotUnderstood(
                line_of(rest[0]), "What | hands the output to is not understood. Leave it out, or use tee."
            )
        piped = " ".join(self._tree.written(each) for each in (sign, *rest))
        self.run(first, (ShellText(piped, line_of(sign)),))

    def _declare(self, node: "Node") -> None:
        name = self._tree.written(node.children[0])
        for word in self._tree.words(node)[1:]:
            if assigned := self._assignment(word):
                self._values |= [assigned]
                variable = assigned[0]
            else:
                variable = "".join(piece.text for piece in word.pieces if piece.kind == "text" and not piece.quoted)
                if not NAME.fullmatch(variable) or len(variable) != sum(len(piece.text) for piece in word.pieces):
                    raise NotUnderstood(word.line, f"{name} is understood with NAME or NAME=value alone.")
            if name == "export":
                self._exported.add(variable)

    def _unset(self, node: "Node") -> None:
        for child in node.children[1:]:
            if child.type != "variable_name":
                raise NotUnderstood(line_of(child), "unset is understood with names alone.")
            name = self._tree.written(child)
            self._values.pop(name, None)
            self._exported.discard(name)

    def _command(self, node: "Node", more: Sequence[Word], output: tuple[ShellText, ...]) -> None:
        """`more` are words that follow a redirection."""
        if any(child.type.endswith("redirect") for child in node.children):
            raise self._input(node)
        prefix: dict[str, ShellText] = {}
        words = [*self._tree.words(node), *more]
        while words and (assigned := self._assignment(words[0])):
            prefix |= [assigned]
            words.pop(0)
        if not words:
            self._values |= prefix
            return
        self._used = set()
        arguments = [text for word in words for text in self._fields(word)]
        if not arguments:
            return
        command, *rest = arguments
        if command.shown.startswith("!"):  # a notebook's sign for a shell's command
            command = replace(command, shown=command.shown[1:])
        while command.shown in COMMAND_PREFIXES and rest:
            command, *rest = rest
            while match := ASSIGNMENT.fullmatch(command.shown):
                prefix[match[1]] = replace(command, shown=match[3])
                if not rest:
                    raise _unknown(command)
                command, *rest = rest
        if (found := _inference_demo_arguments(command, rest)) is not None:
            self._record_invocation(command.line, found, prefix, output)
        elif not _without_effect(command.text, [each.shown for each in rest]):
            raise self._unknown_command(command, rest)

    def _unknown_command(self, command: ShellText, rest: Sequence[ShellText]) -> NotUnderstood:
        if command.shown.startswith("-"):
            return NotUnderstood(
                command.line,
                f"The line begins with {command.shown!r}, and the one before does not end with a backslash: the "
                "command ends there. Add the backslash.",
            )
        name = PurePosixPath(command.shown).name
        if name in LAUNCHERS and any("inference_demo" in each.shown for each in rest):
            return NotUnderstood(
                command.line,
                f"{name} is {LAUNCHERS[name]}, and what it does to the command is not known. Give the inference_demo "
                "command itself, with the variables that it gets.",
            )
        return _unknown(command)

    def _record_invocation(
        self,
        line: int,
        arguments: tuple[ShellText, ...],
        prefix: Mapping[str, ShellText],
        output: tuple[ShellText, ...],
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
            output=ShellText(" ".join(each.shown for each in output), output[0].line) if output else None,
            used=frozenset(self._used),
        )

    def _assignment(self, word: Word) -> tuple[str, ShellText] | None:
        """Returns name and value if `word` is an assignment."""
        bare = "".join(
            piece.text for piece in takewhile(lambda piece: piece.kind == "text" and not piece.quoted, word.pieces)
        )
        match = ASSIGNMENT.match(bare)
        if not match:
            return None
        if match[2]:
            raise NotUnderstood(word.line, f"{match[1]}+= is not understood. Write the whole value.")
        whole = self._joined(word, assigned=match[1])
        return match[1], replace(whole, shown=whole.shown[len(match[1]) + 1 :])

    def _joined(self, word: Word, assigned: str | None = None) -> ShellText:
        """A word that is not split."""
        texts, unknown = [], None
        for text, _, why in self._expanded(word, assigned):
            texts.append(text)
            unknown = unknown or why
        return ShellText("".join(texts), word.line, unknown)

    def _fields(self, word: Word) -> list[ShellText]:
        """Splits a word as a shell would: an unquoted variable may become several fields, or none. What is unknown is
        taken for one field."""
        fields, current = list[ShellText](), None
        for text, splits, unknown in self._expanded(word):
            parts = re.split(r"([ \t\n]+)", text) if splits and not unknown else [text]
            for part in parts:
                if splits and not unknown and not part.strip(" \t\n"):
                    if part and current is not None:
                        fields.append(current)
                        current = None
                    continue
                before = current or ShellText("", word.line)
                current = replace(before, shown=before.shown + part, unknown=before.unknown or unknown)
        if current is not None:
            fields.append(current)
        return fields

    def _expanded(self, word: Word, assigned: str | None = None) -> Iterable[tuple[str, bool, NotUnderstood | None]]:
        """Yields texts, whether a shell would split them, and why one is unknown. `assigned` is the variable whose
        value the word is: not set before, it is empty in that, as in a new shell."""
        for piece in word.pieces:
            if piece.kind == "text":
                yield piece.text, False, None
            elif piece.kind in UNKNOWN:
                yield piece.text, not piece.quoted, NotUnderstood(piece.line, UNKNOWN[piece.kind])
            elif piece.kind == "arithmetic":
                yield self._computed(piece.text, piece.line)
            else:
                found = self._values.get(piece.text)
                self._used.add(piece.text)
                if piece.default is not None and (found is None or (piece.fills_empty and not found.shown)):
                    found = self._joined(Word(piece.default, piece.line))
                    if piece.assigns and not piece.text.isdigit():
                        self._values[piece.text] = found
                elif found is None:
                    found = ShellText("", piece.line) if piece.text == assigned else _unset(piece.text, piece.line)
                if assigned is None and not piece.quoted and not found.unknown and re.search(r"[*?\[]", found.shown):
                    raise NotUnderstood(
                        piece.line, f"${piece.text} holds a pattern of names, which only a shell can find. Quote it."
                    )
                yield found.shown, not piece.quoted, found.unknown

    def _computed(self, expression: str, line: int) -> tuple[str, bool, NotUnderstood | None]:
        def value(name: str, line: int) -> str:
            return (self._values.get(name) or _unset(name, line)).text

        try:
            return str(evaluate(expression, value, line)), False, None
        except NotUnderstood as why:
            return f"$(({expression}))", False, why


def _written(word: Word) -> str:
    signs = {"variable": "${%s}", "arithmetic": "$((%s))", "text": "%s", "output": "%s", "home": "%s"}
    return "".join(signs[piece.kind] % piece.text for piece in word.pieces)


def _unset(name: str, line: int) -> ShellText:
    why = f"{name} has no value: the lines before do not assign it, and nothing else is looked at. Add {name}=…"
    return ShellText(f"${name}", line, NotUnderstood(line, why))


def _is_choice(node: "Node") -> bool:
    """Whether it is `a || b`, of a length that people write."""
    return node.end_byte - node.start_byte <= MAX_CHOICE_BYTES and any(each.type == "||" for each in node.children)


def _changes_nothing(node: "Node", tree: ShellTree) -> bool:
    """Whether everything within a construct leaves variables and the model alone. A command that sources another or
    runs the demo does not."""
    for each in within(node):
        if each.type in CHANGES:
            return False
        if each.type in ("expansion", "arithmetic_expansion") and ASSIGNING.search(tree.written(each)):
            return False
        if each.type == "command" and not _without_effect(*_split(tree.written(each))):
            return False
    return True


def _split(text: str) -> tuple[str, list[str]]:
    command, *arguments = text.split()
    return command, arguments


def _inference_demo_arguments(command: ShellText, rest: list[ShellText]) -> tuple[ShellText, ...] | None:
    if PurePosixPath(command.shown).name in INFERENCE_DEMO:
        return tuple(rest)
    if not PYTHON.fullmatch(PurePosixPath(command.shown).name):
        return None
    while rest and rest[0].shown == "-u":
        rest = rest[1:]
    if [each.shown for each in rest[:2]] == ["-m", MODULE]:
        return tuple(rest[2:])
    if rest and PurePosixPath(rest[0].shown).name in INFERENCE_DEMO:
        return tuple(rest[1:])
    return None


def _without_effect(command: str, arguments: list[str]) -> bool:
    if command in ("source", "."):  # what other scripts do is not known
        return len(arguments) == 1 and arguments[0].endswith("/bin/activate")
    if command == "set":
        options = [each for each in arguments if each != "pipefail"]
        return all(re.fullmatch(f"[-+][{HARMLESS_SETTINGS}]*o?", each) for each in options)
    if command == "printf" and arguments[:1] and arguments[0].startswith("-v"):  # it sets a variable
        return False
    return command in WITHOUT_EFFECT or command in NOTEBOOK


def _unknown(command: ShellText) -> NotUnderstood:
    return NotUnderstood(
        command.line,
        f"The command {command.text!r} is not understood: assignments, exports and one inference_demo are. Leave it "
        "out where it changes nothing, or write out what it sets.",
    )
