"""Runs become figures, verdicts, a table between markers, JSON and a picture; runs of some cases join the others'."""

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from hack.bench.__main__ import main
from hack.bench.answers import AnswerTimes, Round
from hack.bench.cases import Case, Comparison, Contender, cases, narrowed
from hack.bench.checkpoints import Model
from hack.bench.children import DiskUse, Measured
from hack.bench.commands import CommandTimes
from hack.bench.contenders.task import Timing
from hack.bench.failures import BenchFailed
from hack.bench.plot import draw
from hack.bench.report import BEGIN, END, put_between_markers, report
from hack.bench.results import Results, comparisons_of, figures_of, from_json, to_json
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


def test_none_that_fills_memory_runs_right_after_another() -> None:
    (case,) = (case for case in cases() if case.name == "artifacts")
    order = [contender.fills_memory for _, contender in schedule(case, 9)]
    assert order.count(True) == 9 + 9 + 3 + 3
    assert (True, True) not in pairwise(order)


def test_where_all_fill_memory_they_run_all_the_same() -> None:
    (case,) = (case for case in cases() if case.name == "artifacts")
    alone = replace(case, contenders=tuple(one for one in case.contenders if one.fills_memory))
    assert len(list(schedule(alone, 9))) == 24


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
    put_between_markers(page, report(Results(MACHINE, cases=[result], commands=COMMANDS)))
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
    put_between_markers(page, report(Results(MACHINE, cases=[result], commands=COMMANDS)))
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
    saved = json.loads(json.dumps(to_json(Results(MACHINE, 12.34, [result], COMMANDS))))
    assert len(saved["cases"][0]["runs"]) == len(result.runs)
    assert saved["cases"][0]["runs"][0].keys() >= {"contender", "round", "seconds", "user_seconds", "system_seconds"}
    assert [each["verdict"] for each in saved["cases"][0]["comparisons"]] == ["met", None, "met"]


def test_the_picture_is_the_same_for_the_same_runs(result: CaseRuns, tmp_path: Path) -> None:
    for name in ("one.svg", "two.svg"):
        draw([result], tmp_path / name)
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "two.svg").read_bytes()
    assert (tmp_path / "one.svg").read_text().count("<svg") == 1


ANSWERS = AnswerTimes(10**9, (Round((0.5, 0.7), (0.5, 0.5), 10**9, 9.0), Round((0.4,), (0.4,), 10**9, 7.0)))


def ran(name: str, **machine: str) -> CaseRuns:
    """Two rounds of a case that there is, as far as its contenders are known here."""
    case = next(case for case in cases() if case.name == name)
    runs = [run_of(contender.name, number) for number, contender in schedule(case, 2) if contender.name in SECONDS]
    return CaseRuns(case, 5 * 10**8, runs, machine)


def kept(results: Results) -> Results:
    """As they come back from the file."""
    return from_json(json.loads(json.dumps(to_json(results))))


def test_results_are_the_same_when_they_were_kept() -> None:
    results = Results(MACHINE, 12.3, [ran("8b", **MACHINE), ran("moe", **MACHINE)], COMMANDS, ANSWERS)
    assert kept(results) == results


def test_seconds_that_are_a_part_of_the_run_are_kept_with_the_whole() -> None:
    one = run_of("files", 0)
    part = replace(one, measured=replace(one.measured, timing=replace(one.measured.timing, whole_seconds=30.0)))
    assert (one.elapsed, part.seconds, part.elapsed) == (3.0, 3.0, 30.0)
    assert Run.from_json(json.loads(json.dumps(part.to_json()))) == part
    assert "whole_seconds" not in one.to_json()


def test_shares_of_time_are_of_the_whole_run(result: CaseRuns) -> None:
    before = next(each for each in figures_of(result) if each.contender == "files")
    for run in result.of("files"):
        timing = replace(run.measured.timing, whole_seconds=2 * run.seconds)
        result.runs[result.runs.index(run)] = replace(run, measured=replace(run.measured, timing=timing))
    after = next(each for each in figures_of(result) if each.contender == "files")
    assert after.seconds == before.seconds
    assert (after.processors_busy, after.disk_busy) == (before.processors_busy / 2, 0.125)


def test_cases_that_were_run_alone_join_what_was_there() -> None:
    before = kept(Results({"commit": "old"}, 60.0, [ran("8b"), ran("moe")], COMMANDS))
    alone = Results({"commit": "new"}, 6.0, [ran("405b-layer", commit="new"), ran("moe", commit="new")])
    after = kept(before.with_these(replace(alone, answers=replace(ANSWERS, machine={"commit": "new"}))))
    assert [(each.case.name, dict(each.machine)) for each in after.cases] == [
        ("8b", {"commit": "old"}), ("405b-layer", {"commit": "new"}), ("moe", {"commit": "new"})
    ]  # fmt: skip
    assert (after.commands, after.seconds, after.machine) == (COMMANDS, 66.0, {"commit": "old"})
    text = report(after)
    titles = [line for line in text.splitlines() if line.startswith("- `")]
    assert [title.endswith("(commit new)") for title in titles] == [False, True, True, True]
    assert text.endswith("- commit: old")


def test_a_case_that_there_is_no_longer_is_left_out(result: CaseRuns) -> None:
    assert kept(Results(MACHINE, cases=[result, ran("moe")])).cases == [ran("moe", **MACHINE)]


def test_answers_while_shards_are_sealed_are_compared_with_those_afterwards() -> None:
    text = report(Results(MACHINE, answers=ANSWERS))
    row = next(line for line in text.splitlines() if "while shards are sealed behind" in line)
    assert [cell.strip() for cell in row.strip("|").split("|")][2:] == ["1.10", "1.00 – 1.20", "2", "", ""]
    assert "0.45 s each, and 0.50 s while 1.0 GB were sealed in 8.0 s" in text


def test_what_cannot_be_added_to_is_refused_before_anything_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--add", "--only", "moe", "--scratch", str(tmp_path), "--out", str(tmp_path / "nothing")]) == 1
    assert "performance.json cannot be added to (FileNotFoundError" in capsys.readouterr().err
    assert main(["--add", "--quick", "--only", "moe", "--scratch", str(tmp_path)]) == 1
    assert "Leave --quick and --contender out." in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
