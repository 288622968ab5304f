"""The table of reasons is complete, and the page is the table."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from neuronmodel_operator import reasons
from neuronmodel_operator.conditions.source_resolved import SOURCE_REASONS
from tests.paths import PROJECT

PACKAGE = PROJECT / "operator" / "neuronmodel_operator"
WORKER = PROJECT / "worker" / "neuronmodel_worker"
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


def test_every_reason_that_the_worker_gives_is_in_a_table() -> None:
    """Of failures and of notes, wherever they are made."""
    given = {reason for path in WORKER.rglob("*.py") for reason in reasons_of_worker(path)}
    assert given >= SOURCE_REASONS | {"Terminated", "VolumeFull", "ScratchTierFull", "SealingFailed", "CompilerFailed"}
    assert given - reasons.REASONS.keys() - reasons.EVENTS.keys() == set()


def reasons_of_worker(path: Path) -> Iterator[str]:
    """As attributes of classes, and in calls that take one; what is neither a word nor handed on is not understood, and
    fails."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ClassDef):
            yield from (word(a.value, path) for a in node.body if isinstance(a, ast.Assign) and names(a) == ["reason"])
            if any(base.id == "TierTrouble" for base in node.bases if isinstance(base, ast.Name)):
                inits = [c for c in ast.walk(node) if isinstance(c, ast.Call) and ast.unparse(c.func) == INIT]
                yield from (word(init.args[0], path) for init in inits)
        elif isinstance(node, ast.Call) and takes_reason(ast.unparse(node.func)):
            given = [k.value for k in node.keywords if k.arg == "reason"] or node.args[:1]
            yield from (word(value, path) for value in given if not is_handed_on(value))


def takes_reason(function: str) -> bool:
    return function in ("Failure", "Note", "TierTrouble") or function.endswith("clock.note")


def names(assignment: ast.Assign) -> list[str]:
    return [ast.unparse(target) for target in assignment.targets]


def word(value: ast.expr, path: Path) -> str:
    assert isinstance(value, ast.Constant), (
        f"{path.name}:{value.lineno}: the reason is no literal: {ast.unparse(value)}"
    )
    return str(value.value)


def is_handed_on(value: ast.expr) -> bool:
    """One that was made elsewhere."""
    return ast.unparse(value).rpartition(".")[2] == "reason"


def test_every_word_of_the_operator_that_may_be_a_reason_is_in_a_table() -> None:
    """So that no way to make a condition, a note or an Event is overlooked."""
    found = {w for path in PACKAGE.rglob("*.py") if may_decide(path) for w in words_of(path)}
    assert found >= {"WorkerCrashed", "PodReplaced", "PrepareFailed", "CleanupAbandoned", "ShardsSealed"}
    known = reasons.REASONS.keys() | reasons.EVENTS.keys() | reasons.STARTS.keys()
    assert found - known - OF_KUBERNETES - OF_STARTS - OF_STRATEGIES == set(), "put it into reasons.py, or below"


def may_decide(path: Path) -> bool:
    return path.parent.name != "manifests" and path.stem not in WITHOUT_REASONS


def words_of(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Constant) and COMPOUND.fullmatch(str(node.value)):
            yield str(node.value)


COMPOUND = re.compile(r"[A-Z][a-z]+(?:[A-Z][a-z]+)+")
INIT = "super().__init__"
WITHOUT_REASONS = frozenset({"reasons", "client", "observe", "apply", "writes", "reports", "lease", "leases", "views"})
"""Modules that only carry what others say, and speak with the API server in its words."""
OF_KUBERNETES = frozenset(
    {
        *("CreateContainerConfigError", "CreateContainerError", "RunContainerError"),
        *("ErrImageNeverPull", "ErrImagePull", "ImagePullBackOff", "InvalidImageName"),
        *("FailedAttachVolume", "FailedCreate", "FailedMapVolume", "FailedMount", "FailedResourceClaimCreation"),
        *("PersistentVolumeClaim", "ReadOnlyMany", "ReadWriteMany", "ReplicaFailure"),
        *("ClaimMisbound", "FailedBinding", "ProvisioningCleanupFailed", "ProvisioningFailed", "VolumeMismatch"),
        *("WaitForFirstConsumer", "WaitForPodScheduled"),
    }
)
OF_STARTS = frozenset({"BackedOff", "HandedOver", "ImagePulled", "PreviousStopped", "DevicesAwaited", "SourceOpened"})
"""Phases."""
OF_STRATEGIES = frozenset({"NotChosenYet", "NotSpecified"})
"""Reasons of `status.strategy`, which strategies.md explains."""


def test_the_page_is_the_table() -> None:
    page = PROJECT / "docs" / "reference" / "reasons.md"
    assert page.read_text() == reasons.as_markdown(), "write reasons.as_markdown() into docs/reference/reasons.md"
