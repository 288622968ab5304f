"""The table of reasons is complete, and the page is the table."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from neuronmodel_operator import reasons
from neuronmodel_operator.phases.source import SOURCE_REASONS

ROOT = Path(__file__).parents[3]
PACKAGE = ROOT / "operator" / "neuronmodel_operator"
NARRATION = PACKAGE / "narration.py"
GIVERS = frozenset({"Trouble", "holds", "refused", "waits", "_stopped", "_missing"})
PASCAL = re.compile(r"(?:[A-Z][a-z]+)+")


def given_reasons(path: Path) -> Iterator[str]:
    """Words in the place of a reason, in calls that make a condition."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in GIVERS:
            for argument in node.args:
                for inner in [argument, *ast.iter_child_nodes(argument)]:
                    if isinstance(inner, ast.Constant) and PASCAL.fullmatch(str(inner.value)):
                        yield str(inner.value)


def test_every_reason_that_the_operator_gives_is_in_the_table() -> None:
    given = {reason for path in PACKAGE.rglob("*.py") for reason in given_reasons(path)}
    assert len(given) > 20
    assert given - reasons.REASONS.keys() == set()


def test_what_keeps_a_pod_from_being_made_is_no_time_of_loading() -> None:
    given = set(given_reasons(PACKAGE / "obstacles.py"))
    assert given >= {"SourceClaimMissing", "NoImage"}
    assert {reason for reason in given if not reasons.REASONS[reason].blocks} == set()


def test_what_goes_on_by_itself_blocks_nothing() -> None:
    by_itself = ("Unschedulable", "SourceChanged", "WorkerCrashed", "StartStuck", "ConfigMissing", "Suspended")
    assert [reason for reason in by_itself if reasons.REASONS[reason].blocks] == []


def test_every_reason_that_the_worker_gives_is_in_the_table() -> None:
    worker = ROOT / "worker" / "neuronmodel_worker"
    given = {
        m[1] for path in worker.rglob("*.py") for m in re.finditer(r'^    reason = "(\w+)"', path.read_text(), re.M)
    }
    assert given >= {"ConfigMissing", "ArtifactDamaged"}
    assert given - reasons.REASONS.keys() == set()
    assert given >= SOURCE_REASONS


def test_every_note_and_every_event_of_artifacts_is_in_the_other_table() -> None:
    serve = ROOT / "worker" / "neuronmodel_worker" / "serve"
    noted = {m for path in serve.rglob("*.py") for m in re.findall(r'"(ScratchTier\w+|\w+Failed)"', path.read_text())}
    narrated = set(re.findall(r'"(\w+)", "([A-Z]\w+)"|\n +"(?:Warning|Normal)", "(\w+)"', NARRATION.read_text()))
    told = {word for words in narrated for word in words if word not in ("", "Warning", "Normal")}
    assert noted >= {"ScratchTierFull", "SealingFailed"}
    assert told >= {"ArtifactQuarantined", "ShardsSealed"}
    assert (noted | told) - {"Ready"} - reasons.EVENTS.keys() - reasons.REASONS.keys() == set()


def test_the_page_is_the_table() -> None:
    page = ROOT / "docs" / "reference" / "reasons.md"
    assert page.read_text() == reasons.as_markdown(), "write reasons.as_markdown() into docs/reference/reasons.md"
