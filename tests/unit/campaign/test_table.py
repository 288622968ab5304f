"""The table of docs/reliability.md: counts, order, and where it is written."""

from pathlib import Path

import pytest

from tests.campaign import table
from tests.campaign.campaign import Told
from tests.campaign.faults_tried import Pattern, Tried
from tests.campaign.real_nodes import rows_of as rows_of_results
from tests.campaign.stories import STORIES
from tests.campaign.table import BEGIN, END, Row, rows_of

RESULTS = """<?xml version="1.0"?><testsuites><testsuite>
<testcase name="test_one_is_told[a]"/><testcase name="test_one_is_told[b]"><failure message="no"/></testcase>
<testcase name="test_another"/><testcase name="test_left_out"><skipped/></testcase>
</testsuite></testsuites>"""


def told(pattern: Pattern, what: str, *problems: str, was_reached: bool = True) -> Told:
    return Told(STORIES[0], Tried(pattern, what, "patch jobs #1"), was_reached, problems)


def test_what_was_tried_is_counted_by_fault_and_what_did_not_come_about_is_not() -> None:
    rows = rows_of(
        [
            told(Pattern.READ, "reads cut"),
            told(Pattern.INTERMEDIATE, "killed before a write"),
            told(Pattern.INTERMEDIATE, "killed before a write", "a Job is missing"),
            told(Pattern.INTERMEDIATE, "killed before a write", was_reached=False),
        ]
    )
    assert table.table(rows)[2:] == [
        "| intermediate state | killed before a write | 2 | 1 |",
        "| answers to reads | reads cut | 1 | 0 |",
        "| all | | 3 | 1 |",
    ]


def test_results_of_tests_are_rows() -> None:
    assert rows_of_results(RESULTS) == [
        Row(Pattern.CLUSTER, "one is told (real nodes)", 2, 1),
        Row(Pattern.CLUSTER, "another (real nodes)", 1, 0),
    ]


def test_the_table_is_written_between_its_marks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    monkeypatch.setattr(table, "PAGE", page)
    table.write(["new", "lines"])
    assert page.read_text() == f"before\n{BEGIN}\nnew\nlines\n{END}\nafter\n"


def test_the_page_has_the_marks() -> None:
    assert table.PAGE.read_text().count(BEGIN) == table.PAGE.read_text().count(END) == 1
