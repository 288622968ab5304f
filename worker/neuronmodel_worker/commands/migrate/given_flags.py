"""Parses the arguments of `inference_demo` into flags with values, by argparse's rules, and keeps their line
numbers."""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from neuronmodel_worker.commands.migrate.inference_demo_flags import (
    BEFORE_RUN,
    BOUNDS,
    FLAGS,
    NOT_CARRIED,
    Flag,
    FlagKind,
)
from neuronmodel_worker.commands.migrate.not_understood import NotUnderstood
from neuronmodel_worker.commands.migrate.shell_script import Correction, Invocation, ShellText

RUN: Final = "run"
MODEL_PATH: Final = "--model-path"
REQUIRED: Final = ("--model-type", "--task-type", MODEL_PATH)
NUMBER = re.compile(r"-\d+|-\d*\.\d+", re.ASCII)
"""What argparse takes for a value although it begins like a flag."""
OTHER_DASHES = re.compile("[\u2010-\u2015\u2212\ufe58\ufe63\uff0d]+")
INTEGER = re.compile(r"[-+]?\d{1,18}", re.ASCII)
DTYPES: Final = ("bfloat16", "float16", "float32")
WITHOUT_VALUE: Final = (FlagKind.SWITCH, FlagKind.TOGGLE)
WITH_SEVERAL: Final = (FlagKind.INTEGERS, FlagKind.TEXTS)


@dataclass(frozen=True)
class Given:
    """A flag with its value, in the JSON type of the flag's field; a tuple if the flag takes several values or
    repeats."""

    flag: Flag
    value: Any
    line: int
    unknown: NotUnderstood | None = None
    """Why a part of a path is not known; the value is then as written."""


@dataclass(frozen=True)
class InferenceDemoCommand:
    """The parsed command. `given` has the flags by their full names, in order."""

    invocation: Invocation
    given: Mapping[str, Given]
    corrections: tuple[Correction, ...] = ()

    def __contains__(self, name: str) -> bool:
        return name in self.given

    def value(self, name: str, default: Any = None) -> Any:
        return self.given[name].value if name in self.given else default

    def line(self, name: str) -> int:
        """Returns the flag's line, or the command's own if the flag is not given."""
        return self.given[name].line if name in self.given else self.invocation.line


@dataclass(frozen=True)
class LeftOut:
    """A part of the command that the NeuronModel does not carry."""

    line: int
    what: str
    reason: str

    def __str__(self) -> str:
        return f"{self.what}: {self.reason}"


def read_flags(invocation: Invocation) -> InferenceDemoCommand:
    """Raises NotUnderstood."""
    arguments = list(invocation.arguments)
    given: dict[str, Given] = {}
    corrections = list(invocation.corrections)
    after_run = False
    while arguments:
        argument = _with_hyphens(arguments.pop(0), corrections)
        if not argument.shown.startswith("-"):
            if after_run or argument.text != RUN:
                raise NotUnderstood(
                    argument.line,
                    f"{argument.text!r} stands where a flag was expected. Put quotation marks around what belongs "
                    "together.",
                )
            after_run = True
            continue
        name, equals, joined = argument.shown.partition("=")
        flag, negated = _flag(name, argument.line, after_run)
        value = replace(argument, shown=joined) if equals else None
        path = value or next(iter(arguments), None)
        unknown = path.unknown if path and flag.name == MODEL_PATH else None
        one = Given(flag, _value(flag, argument.line, value, arguments, negated), argument.line, unknown)
        given[flag.name] = _merged(given.get(flag.name), one)
    if not after_run:
        raise NotUnderstood(invocation.line, f"The word {RUN} is missing behind --model-type and --task-type.")
    for name in REQUIRED:
        if name not in given:
            raise NotUnderstood(invocation.line, f"{name} is missing.")
    return InferenceDemoCommand(invocation, given, tuple(corrections))


def _with_hyphens(argument: ShellText, corrections: list[Correction]) -> ShellText:
    """A flag with the dashes of a web page or a word processor, as it is meant. Raises NotUnderstood where that is no
    flag."""
    name, equals, value = argument.shown.partition("=")
    if not OTHER_DASHES.search(name) or not (name.startswith("-") or OTHER_DASHES.match(name)):
        return argument
    meant = _meant(name)
    if meant not in FLAGS:
        raise NotUnderstood(
            argument.line, f"{name!r} has a dash in it that is no hyphen. Write -- and the flag's name."
        )
    corrections.append(Correction(argument.line, f"{name} has a dash that is no hyphen, and is read as {meant}"))
    return replace(argument, shown=f"{meant}{equals}{value}")


def _meant(name: str) -> str:
    return f"--{OTHER_DASHES.sub('-', name).lstrip('-')}"


def _flag(name: str, line: int, after_run: bool) -> tuple[Flag, bool]:
    """Returns the flag, and whether it was written as its negation. As in argparse, an unambiguous prefix is enough."""
    names = {
        spelling: (flag, spelling != flag.name)
        for flag in FLAGS.values()
        for spelling in ([flag.name, flag.negation] if flag.kind is FlagKind.TOGGLE else [flag.name])
        if (flag.name in BEFORE_RUN) != after_run
    }
    if name in names:
        return names[name]
    if name in FLAGS:
        where = "behind" if name not in BEFORE_RUN else "before"
        raise NotUnderstood(line, f"{name} belongs {where} the word {RUN}.")
    matches = [spelling for spelling in names if name.startswith("--") and len(name) > 2 and spelling.startswith(name)]
    if len(matches) == 1:
        return names[matches[0]]
    if matches:
        raise NotUnderstood(line, f"{name} may be {', '.join(sorted(matches))}. Write it out.")
    raise NotUnderstood(
        line,
        f"inference_demo of NxD Inference 0.9.0 has no flag {name}. Correct it; where it is a field of NeuronConfig, "
        "leave it out here and add the field to compile.extra of the result.",
    )


def _value(flag: Flag, line: int, joined: ShellText | None, arguments: list[ShellText], negated: bool) -> Any:
    if flag.kind in WITHOUT_VALUE:
        if joined is not None:
            raise NotUnderstood(line, f"{flag.name} takes no value, and {joined.shown!r} was given.")
        return not negated
    values = [joined] if joined is not None else list(_values(flag, arguments))
    if not values:
        raise NotUnderstood(line, f"{flag.name} has no value behind it.")
    read = tuple(_read(flag, value, line) for value in values)
    return read if flag.kind in (*WITH_SEVERAL, FlagKind.REPEATED) else read[0]


def _values(flag: Flag, arguments: list[ShellText]) -> Iterable[ShellText]:
    while arguments and not _begins_a_flag(arguments[0].shown):
        yield arguments.pop(0)
        if flag.kind not in WITH_SEVERAL:
            return


def _begins_a_flag(text: str) -> bool:
    if OTHER_DASHES.match(text):
        return _meant(text.partition("=")[0]) in FLAGS
    return text.startswith("-") and len(text) > 1 and not NUMBER.fullmatch(text) and " " not in text


def _read(flag: Flag, value: ShellText, line: int) -> Any:
    """What is not carried need not be known, and of a path whoever needs it says which part."""
    is_text = flag.kind in (FlagKind.TEXT, FlagKind.REPEATED, FlagKind.FILE)
    if is_text and (flag.name in NOT_CARRIED or (flag.name == MODEL_PATH and value.unknown)):
        return value.shown
    text = value.text
    if text.startswith("<"):
        raise NotUnderstood(line, f"{flag.name} is {text!r}, a placeholder. Write what belongs in its place.")
    if flag.kind in (FlagKind.INTEGER, FlagKind.INTEGERS):
        if not INTEGER.fullmatch(text):
            raise NotUnderstood(line, f"{flag.name} is {text!r} and has to be an integer.")
        return _bounded(flag, int(text), line)
    if flag.kind is FlagKind.FLOAT:
        try:
            number = float(text)
        except ValueError:
            number = math.nan
        if math.isnan(number) or number == -math.inf:
            raise NotUnderstood(line, f"{flag.name} is {text!r} and has to be a number.")
        return number
    if flag.kind is FlagKind.DTYPE and text not in DTYPES and flag.name != "--kv-quant-dtype":
        raise NotUnderstood(line, f"{flag.name} is {text!r} and has to be one of {', '.join(DTYPES)}.")
    return text


def _bounded(flag: Flag, value: int, line: int) -> int:
    least, most = BOUNDS.get(flag.name, (value, value))
    if not least <= value <= most:
        raise NotUnderstood(line, f"{flag.name} is {value}, and a NeuronModel takes {least} to {most}.")
    return value


def _merged(before: Given | None, now: Given) -> Given:
    if before is None:
        return now
    if now.flag.kind is FlagKind.REPEATED:
        return Given(now.flag, (*before.value, *now.value), before.line)
    if before.value != now.value:
        raise NotUnderstood(
            now.line, f"{now.flag.name} is given with another value in line {before.line}. Leave one of the two."
        )
    return before
