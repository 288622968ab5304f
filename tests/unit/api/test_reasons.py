"""Every reason is a member of one enumeration, which both sides use; the page is made from it."""

import ast
import re
from collections.abc import Iterator

import pytest

from hack.schema.words import reasons_page
from neuronmodel_api.conditions import ConditionType
from neuronmodel_api.reasons import Reason, ReasonUse
from tests.contract_words import bare, modules, used
from tests.paths import OPERATOR, PROJECT, WORKER

OF_OTHERS = {
    ("Unschedulable", "unschedulable"),
    ("Ready", "ready_at"),
    ("Ready", "_ready_for"),
    ("ClaimLost", "_FAILURES"),
    ("RevisionNotFound", "raise_refusal"),
}
"""Words of Kubernetes' own and of the Hub's, and where they are read."""


def test_every_reason_is_given_by_somebody() -> None:
    given = set[Reason]().union(*(used(Reason, tree) for tree in modules(OPERATOR, WORKER)))
    assert set(Reason) - given == set()


def test_no_reason_is_a_bare_string_in_the_code_that_gives_or_reads_it() -> None:
    found = {each for tree in modules(OPERATOR, WORKER) for each in bare(Reason, tree)}
    assert found - OF_OTHERS == set(), "use the member of Reason"


def test_bare_strings_are_found() -> None:
    assert list(bare(Reason, ast.parse("def f(): return 'Serving'\nX: Final = {'Ready': 1}\n'nothing'"))) == [
        ("Serving", "f"),
        ("Ready", "X"),
    ]
    assert not list(bare(Reason, ast.parse("class States(StrEnum): READY = 'Ready'\n__all__ = ['DoesNotFit']")))


def failures(tree: ast.AST) -> Iterator[Reason]:
    """Of classes of failures, and of `Failure(reason=…)`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            assigned = (each for each in node.body if isinstance(each, ast.Assign | ast.AnnAssign))
            given = [each.value for each in assigned if re.match(r"reason\b", ast.unparse(each))]
        elif isinstance(node, ast.Call) and ast.unparse(node.func) == "Failure":
            given = [keyword.value for keyword in node.keywords if keyword.arg == "reason"]
        else:
            continue
        for value in filter(None, given):
            yield from used(Reason, value)


def test_a_reason_has_a_condition_if_a_worker_fails_with_it() -> None:
    failing = {reason for tree in modules(WORKER) for reason in failures(tree)}
    assert failing == {reason for reason in Reason if reason.condition}


def test_what_else_a_worker_says_is_a_note_or_of_the_strategy() -> None:
    given = {reason for tree in modules(WORKER) for reason in used(Reason, tree)}
    others = {reason for reason in given if reason.condition is None}
    assert {reason.use for reason in others} == {ReasonUse.NOTE, ReasonUse.STRATEGY}
    of_the_operator = {Reason.SLOWER_THAN_USUAL}
    assert {reason for reason in Reason if reason.use is ReasonUse.NOTE} - others == of_the_operator


def test_what_is_wrong_with_the_source_shows_in_its_condition() -> None:
    of_source = {reason for reason in Reason if reason.condition is ConditionType.SOURCE_RESOLVED}
    assert {Reason.SOURCE_NOT_FOUND, Reason.TOKENIZER_INVALID, Reason.MODEL_TYPE_WITHOUT_LAYOUT} <= of_source
    assert not {Reason.MODEL_TYPE_WITHOUT_APPLICATION, Reason.ARTIFACT_DAMAGED, Reason.SOURCE_CHANGED} & of_source


def test_what_keeps_a_pod_from_being_made_is_no_time_of_loading() -> None:
    given = used(Reason, ast.parse((OPERATOR / "decide/preconditions.py").read_text()))
    assert given >= {Reason.SOURCE_CLAIM_MISSING, Reason.NO_IMAGE}
    assert {reason for reason in given if not reason.blocks} == set()


def test_what_goes_on_by_itself_blocks_nothing() -> None:
    by_itself = (
        Reason.UNSCHEDULABLE,
        Reason.SOURCE_CHANGED,
        Reason.WORKER_CRASHED,
        Reason.START_STUCK,
        Reason.CONFIG_MISSING,
        Reason.SUSPENDED,
    )
    assert [reason for reason in by_itself if reason.blocks] == []


@pytest.mark.parametrize("reason", list(Reason))
def test_a_reason_is_a_word_that_kubernetes_takes_with_a_meaning(reason: Reason) -> None:
    assert re.fullmatch(r"([A-Z][a-z]*)+", reason)
    assert reason.meaning.endswith((".", ")."))
    assert reason.remedy == "" or reason.remedy.endswith(".")


def test_a_word_that_is_not_here_is_nobody_s_mistake() -> None:
    assert Reason.known("OfANewerWorker") is None
    assert Reason.known("Serving") is Reason.SERVING


def test_the_page_is_the_enumeration() -> None:
    page = PROJECT / "docs" / "reference" / "reasons.md"
    assert page.read_text() == reasons_page(), "run `python -m hack.schema`"
    assert all(f"| `{reason}` |" in page.read_text() for reason in Reason)
