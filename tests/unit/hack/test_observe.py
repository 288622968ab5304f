"""Pictures of screens and panels, and the hastened alerts of `make observe`."""

import re
import sys
from typing import Any

import pytest

from hack.observe import dashboard, picture, screens, stack


def durations(text: str) -> list[str]:
    return re.findall(r"\b\d+[smh]\b", text)


def test_hastened_alerts_have_a_second_in_the_place_of_each_minute() -> None:
    own, hastened = durations(stack.ALERTS.read_text()), durations(str(stack.hastened_alerts()))
    assert {each[-1] for each in own} == {"m", "h"}
    minutes = sorted(each.replace("m", "s").replace("h", "m") for each in own)
    assert sorted(each for each in hastened if each != "2s") == minutes


def test_a_command_is_shown_with_its_colours_and_nothing_is_fetched() -> None:
    shown = screens.on_a_terminal(
        [
            sys.executable,
            "-c",
            "import os, sys; print(sys.stdout.isatty(), os.get_terminal_size().columns, '\\x1b[31mred')",
        ]
    )
    assert shown.startswith(f"True {screens.COLUMNS} \x1b[31mred")
    drawn = screens.picture(shown, "a title")
    assert "a&#160;title" in drawn or "a title" in drawn
    assert not re.findall(r"(?:url\(|href=|@import)[\s\"']*https?://", drawn)
    assert "red" in drawn


def test_a_command_that_fails_makes_no_picture() -> None:
    with pytest.raises(SystemExit, match="ended with code 3"):
        screens.on_a_terminal([sys.executable, "-c", "raise SystemExit(3)"])


def test_a_page_draws_each_panel_from_what_prometheus_says(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    labels = {"name": "<smol>", "pod": "p"}

    def instant(query: str) -> list[dict[str, Any]]:
        asked.append(query)
        return [{"metric": labels, "value": [1.0, "3"]}]

    def over_time(query: str, seconds: float, step_seconds: float) -> list[dict[str, Any]]:
        asked.append(query)
        return [{"metric": labels, "values": [[1.0, "1"], [6.0, "NaN"], [11.0, "2"]]}]

    monkeypatch.setattr(stack, "query", instant)
    monkeypatch.setattr(stack, "query_range", over_time)
    page = picture.page()
    assert not [query for query in asked if "$" in query]
    assert "<smol>" not in page
    assert "&lt;smol&gt;" in page
    assert page.count('class="panel"') == sum(len(row.panels) for row in dashboard.ROWS)
    assert "nan" not in page.lower().replace("namespace", "")
