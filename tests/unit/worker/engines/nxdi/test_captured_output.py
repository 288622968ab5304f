"""What a library writes past Python is passed on and kept."""

import os
from contextlib import suppress
from pathlib import Path

import pytest

from neuronmodel_worker.engines.nxdi.captured_output import captured_output


def test_what_is_written_to_either_descriptor_is_captured_and_passed_on(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with captured_output(tmp_path) as captured:
        os.write(1, b"NRT: one\n")
        os.write(2, b"TDRV: two\n")
    os.write(2, b"afterwards\n")
    assert captured.text == "NRT: one\nTDRV: two\n"
    assert capfd.readouterr().err == "NRT: one\nTDRV: two\nafterwards\n"
    assert not list(tmp_path.iterdir())


def test_it_ends_with_what_raised_in_it(tmp_path: Path) -> None:
    found = []
    with suppress(RuntimeError), captured_output(tmp_path) as captured:
        found.append(captured)
        os.write(2, b"before it failed\n")
        raise RuntimeError
    assert [each.text for each in found] == ["before it failed\n"]


def test_without_tee_it_only_does_not_hear(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with captured_output(tmp_path) as captured:
        os.write(2, b"to the log\n")
    assert captured.text == ""
    assert capfd.readouterr().err == "to the log\n"
