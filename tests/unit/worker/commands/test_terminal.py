"""What host commands show in addition to their result, and how soon they say what they are."""

import os
import pty
import re
import subprocess
import sys

import pytest

from neuronmodel_worker.cli import _parser
from neuronmodel_worker.commands.arguments import COMMANDS
from neuronmodel_worker.commands.terminal import ProgressLines, on_one_line
from neuronmodel_worker.units import duration, in_units, rate
from tests.paths import PROJECT
from tests.unit.worker.commands.commands import PYTHON, Place

REFERENCE = PROJECT / "docs" / "reference" / "commands.md"


def on_a_terminal(*arguments: object, **changes: str) -> tuple[int, str]:
    """The exit code and what is shown on a terminal that is standard error."""
    ours, theirs = pty.openpty()
    command = [*PYTHON, *map(str, arguments)]
    environment = {**os.environ, "TERM": "xterm", **changes}
    with subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.PIPE, stderr=theirs, env=environment) as process:
        os.close(theirs)
        shown = b""
        while more := read_terminal(ours):
            shown += more
        os.close(ours)
    return process.returncode, shown.decode()


def read_terminal(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 1 << 16)
    except OSError:  # how a terminal says that nobody writes to it any more
        return b""


def test_a_terminal_gets_a_bar_that_goes_away(place: Place) -> None:
    code, shown = on_a_terminal(*place.shard)
    assert code == 0
    assert re.search(r"shard: +\d+%\|", shown)
    assert shown.rstrip(" ").endswith("\r")


def test_quiet_and_dumb_terminals_get_none(place: Place) -> None:
    assert on_a_terminal(*place.shard, "--quiet") == (0, "")
    assert on_a_terminal(*place.shard, TERM="dumb") == (0, "")


def test_a_failure_has_a_line_of_its_own_on_a_terminal(place: Place) -> None:
    os.truncate(next(place.model.glob("*-00002-*")), 40_000)
    code, shown = on_a_terminal(*place.shard)
    assert code != 0
    assert shown.startswith("neuronmodel shard: ")
    assert shown.count("\n") == 1


def test_elsewhere_a_line_comes_every_ten_seconds() -> None:
    now, lines = [0.0], list[str]()
    show = ProgressLines("written", 1_000_000, lines.append, lambda: now[0])
    for second in range(36):
        now[0] = second
        show(second * 25_000)
    assert lines == [
        "25%: 250 kB of 1.00 MB written, 25.0 kB/s, 30.00 s left",
        "50%: 500 kB of 1.00 MB written, 25.0 kB/s, 20.00 s left",
        "75%: 750 kB of 1.00 MB written, 25.0 kB/s, 10.00 s left",
    ]


def test_figures_have_three_digits() -> None:
    found = [in_units(n) for n in (0, 999, 1000, 9994, 47_756, 4_920_000_000, 811_706_777_600, 9.9e15)]
    assert found == ["0 bytes", "999 bytes", "1.00 kB", "9.99 kB", "47.8 kB", "4.92 GB", "812 GB", "9,900 TB"]
    assert [duration(s) for s in (0.004, 3.61, 1856, 8100)] == ["0.00 s", "3.61 s", "30 min 56 s", "2 h 15 min"]
    assert (rate(4.92e9, 3.61), rate(1, 0)) == ("1.36 GB/s", "an instant")


def test_names_cannot_break_a_line_or_steer_the_terminal() -> None:
    assert on_one_line("a\nb\x1b[2J\udc80 ä") == r"a\nb\x1b[2J\udc80 ä"


@pytest.mark.parametrize("arguments", [["--help"], *([command, "--help"] for command in COMMANDS)], ids=" ".join)
def test_help_imports_nothing_that_takes_time(arguments: list[str]) -> None:
    command = [sys.executable, "-X", "importtime", "-m", "neuronmodel_worker", *arguments]
    ended = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)
    assert ended.returncode == 0
    assert ended.stdout.startswith("usage: neuronmodel")
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in ended.stderr.splitlines()}
    assert "argparse" in imported
    slow = {"numpy", "pydantic", "tqdm", "safetensors", "asyncio", "torch", "xxhash", "ml_dtypes", "transformers"}
    assert not imported & slow


def test_the_reference_has_every_command_and_option() -> None:
    text = REFERENCE.read_text()
    (commands,) = (action for action in _parser()._actions if action.dest == "command")
    assert isinstance(commands.choices, dict)
    sections = dict(re.findall(r"^## `neuronmodel ([\w-]+)`.*?\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL))
    for name, parser in commands.choices.items():
        for action in parser._actions:
            for option in action.option_strings[-1:]:
                assert f"`{option}" in sections[name] or option == "--help", (name, option)
