"""Runs become figures, verdicts, a table between markers, JSON and a picture."""

import json
from pathlib import Path

import pytest

from hack.bench.cases import Case, Comparison, Contender, narrowed
from hack.bench.checkpoints import Model
from hack.bench.children import DiskUse, Measured
from hack.bench.commands import CommandTimes
from hack.bench.contenders.task import Timing
from hack.bench.failures import BenchFailed
from hack.bench.plot import draw
from hack.bench.report import BEGIN, END, put_between_markers, report
from hack.bench.results import comparisons_of, figures_of, to_json
from hack.bench.rounds import CaseRuns, Run, schedule
from hack.bench.statistics import Limit

GIB = 1 << 30
CASE = Case(
    "small",
    "A small model",
    Model(64, 96, 1, 8, 2, 128),
    (
        Contender("cp + sync", "copy"),
        Contender("raw read, 1 thread", "raw_read"),
        Contender("raw read, 4 threads", "raw_read"),
        Contender("files", "shard_to_files", memory_limit_bytes=GIB),
        Contender("today's loop", "todays_loop", rounds=3),
    ),
    (
        Comparison("to files, against cp + sync", "files", ("cp + sync",), Limit(1.05)),
        Comparison("to files, against a raw read", "files", ("raw read, 1 thread", "raw read, 4 threads")),
        Comparison("to files, times as fast", "files", ("today's loop",), Limit(5, "at least"), speedup=True),
    ),
)
SECONDS = {
    "cp + sync": 4.0,
    "raw read, 1 thread": 2.5,
    "raw read, 4 threads": 2.0,
    "files": 3.0,
    "today's loop": 18.0,
}
MACHINE = {"memory": "24 GiB"}
COMMANDS = [CommandTimes("neuronmodel --help", "s", (0.2, 0.1, 0.3), 0.5)]


def run_of(contender: str, number: int) -> Run:
    """Every round is slower than the last by a tenth, for all contenders alike."""
    timing = Timing(SECONDS[contender] * (1 + number / 10), user_seconds=1.0, system_seconds=0.5)
    return Run(
        contender,
        number,
        Measured(timing, 5.0, 2.0, 1000, (number + 1) * GIB // 8, DiskUse(1, 2, timing.seconds / 4)),
        source_pages_left=0,
    )


@pytest.fixture
def result() -> CaseRuns:
    runs = [run_of(contender.name, number) for number, contender in schedule(CASE, 9)]
    return CaseRuns(CASE, 5 * 10**8, runs)


def test_every_contender_runs_once_a_round_and_slow_ones_in_some(result: CaseRuns) -> None:
    assert [len(result.of(contender.name)) for contender in CASE.contenders] == [9, 9, 9, 9, 3]
    assert result.seconds("today's loop").keys() == {0, 3, 6}


def test_rounds_are_in_another_order_each_and_the_same_the_next_time() -> None:
    orders = [[c.name for n, c in schedule(CASE, 9) if n == number] for number in range(9)]
    assert len({tuple(order) for order in orders}) > 5
    assert list(schedule(CASE, 9)) == list(schedule(CASE, 9))


def test_ratios_are_against_the_fastest(result: CaseRuns) -> None:
    held = {each.title: each for each in comparisons_of(result)}
    copied = held["to files, against cp + sync"]
    assert (copied.ratio.median, copied.verdict) == (0.75, "met")
    assert held["to files, against a raw read"].against == "raw read, 4 threads"
    assert held["to files, against a raw read"].ratio.median == pytest.approx(1.5)
    assert held["to files, against a raw read"].verdict is None
    faster = held["to files, times as fast"]
    assert faster.ratio.median == pytest.approx(6.0)
    assert (faster.ratio.rounds, faster.verdict) == (3, "met")


def test_figures_are_medians_for_a_gigabyte_and_the_highest_peak(result: CaseRuns) -> None:
    files = next(each for each in figures_of(result) if each.contender == "files")
    assert files.seconds == pytest.approx(3.0 * 1.4)
    assert files.processor_seconds_a_gigabyte == 3.0
    assert files.disk_busy == 0.25
    assert (files.peak_anonymous_bytes, files.memory_verdict) == (9 * GIB // 8, "missed")


def test_what_was_not_run_is_not_compared(result: CaseRuns) -> None:
    result.runs = [run for run in result.runs if run.contender != "today's loop"]
    assert [each.title for each in comparisons_of(result)] == [each.title for each in CASE.comparisons[:2]]
    without_copy = narrowed(CASE, lambda contender: contender.name != "cp + sync")
    assert [each.title for each in without_copy.comparisons] == [each.title for each in CASE.comparisons[1:]]


def test_the_page_gets_the_table_and_keeps_the_rest(result: CaseRuns, tmp_path: Path) -> None:
    page = tmp_path / "performance.md"
    page.write_text(f"before\n{BEGIN}\nold figures\n{END}\nafter\n")
    put_between_markers(page, report([result], COMMANDS, MACHINE))
    text = page.read_text()
    assert text.startswith(f"before\n{BEGIN}\n")
    assert text.endswith(f"\n{END}\nafter\n")
    assert "old figures" not in text
    row = next(line for line in text.splitlines() if "against cp + sync" in line)
    assert [cell.strip() for cell in row.strip("|").split("|")][2:] == [
        "0.75",
        "0.75 – 0.75",
        "9",
        "at most 1.05",
        "met",
    ]
    row = next(line for line in text.splitlines() if "--help" in line)
    assert [cell.strip() for cell in row.strip("|").split("|")][2:] == [
        "0.20 s",
        "up to 0.30",
        "3",
        "under 0.5 s",
        "met",
    ]
    assert "memory: 24 GiB" in text
    put_between_markers(page, report([result], COMMANDS, MACHINE))
    assert page.read_text() == text


@pytest.mark.parametrize("content", ["nothing", BEGIN, f"{END}\n{BEGIN}", f"{BEGIN}{END}{BEGIN}{END}"])
def test_a_page_without_its_markers_is_left_alone(content: str, tmp_path: Path) -> None:
    page = tmp_path / "performance.md"
    page.write_text(content)
    with pytest.raises(BenchFailed, match="put them there"):
        put_between_markers(page, "new")
    assert page.read_text() == content


def test_a_command_that_took_too_long_once_has_missed() -> None:
    assert CommandTimes("help", "s", (0.1, 0.1, 0.5), 0.5).verdict == "missed"


def test_the_json_holds_every_single_run(result: CaseRuns) -> None:
    saved = json.loads(json.dumps(to_json([result], COMMANDS, MACHINE, 12.34)))
    assert len(saved["cases"][0]["runs"]) == len(result.runs)
    assert saved["cases"][0]["runs"][0].keys() >= {"contender", "round", "seconds", "user_seconds", "system_seconds"}
    assert [each["verdict"] for each in saved["cases"][0]["comparisons"]] == ["met", None, "met"]


def test_the_picture_is_the_same_for_the_same_runs(result: CaseRuns, tmp_path: Path) -> None:
    for name in ("one.svg", "two.svg"):
        draw([result], tmp_path / name)
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "two.svg").read_bytes()
    assert (tmp_path / "one.svg").read_text().count("<svg") == 1
