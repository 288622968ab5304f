"""Every phase of a start is a member of one enumeration, which both sides use."""

import re

import pytest

from hack.schema.words import phases_page
from neuronmodel_api.phases import MeasuredBy, StartPhase
from neuronmodel_api.report import Stage
from tests import crd
from tests.contract_words import bare, modules, used
from tests.paths import OPERATOR, PROJECT, WORKER

IN_THE_WORKER = set[StartPhase]().union(*(used(StartPhase, tree) for tree in modules(WORKER)))
IN_THE_OPERATOR = set[StartPhase]().union(*(used(StartPhase, tree) for tree in modules(OPERATOR)))


def test_each_phase_is_measured_by_whom_it_says() -> None:
    assert {phase for phase in StartPhase if phase.measured_by is MeasuredBy.WORKER} == IN_THE_WORKER
    assert {phase for phase in StartPhase if phase.measured_by is MeasuredBy.OPERATOR} <= IN_THE_OPERATOR


def test_no_phase_is_a_bare_string_in_the_code_that_measures_or_reads_it() -> None:
    assert not {each for tree in modules(OPERATOR, WORKER) for each in bare(StartPhase, tree)}, "use the member"


@pytest.mark.parametrize("phase", list(StartPhase))
def test_a_phase_is_one_word_with_a_meaning_and_a_remedy(phase: StartPhase) -> None:
    assert re.fullmatch(r"([A-Z][a-z]+)+", phase)
    assert phase.meaning.endswith(".")
    assert phase.remedy.endswith(".") or phase.remedy.endswith("?")


def test_kubectl_explain_names_every_phase_of_a_start() -> None:
    """And the page of each is generated: `python -m hack.schema`."""
    nodes = dict(crd.walk(crd.schema_of(crd.definition())))
    description = nodes["status.starts[].phases[].name"]["description"]
    of_starts = {phase for phase in StartPhase if set(phase.stages) & set(OF_A_START)}
    assert set(re.findall(r"\b[A-Z][a-z]+(?:[A-Z][a-z]+)*\b", description)) - NO_PHASES == of_starts
    assert nodes["status.starts[].phases[].stage"]["enum"] == OF_A_START


OF_A_START = [Stage.PREPARE, Stage.SERVE]
NO_PHASES = {"What", "Seen", "Measured", "By"}


def test_the_page_is_the_enumeration() -> None:
    page = PROJECT / "docs" / "reference" / "phases.md"
    assert page.read_text() == phases_page(), "run `python -m hack.schema`"
    assert all(f"\n| `{phase}` |" in page.read_text() for phase in StartPhase)
