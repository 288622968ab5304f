"""What a report says in fields of its own, and what is read of one that lacks them."""

from datetime import UTC, datetime

from neuronmodel_api.report import MAX_MISSED, Report, Result, Stage, State, parse_report
from neuronmodel_api.status import StartNote

SETS = (
    "The artifact compiled/a is damaged: a file is missing.",
    "The artifact shards/b is damaged: a file is missing.",
)
RESULT = Result(source_fingerprint="f", model_type="llama", compiled_key="a", cache="Miss", quarantined=SETS)


def test_a_result_says_which_sets_its_sentence_has() -> None:
    built = RESULT.model_copy(update={"missed": "Compiled the model.", "quarantined_in_missed": 1})
    assert built.quarantined_besides == SETS[1:]
    assert built.model_copy(update={"quarantined_in_missed": 0}).quarantined_besides == SETS


def test_a_former_worker_s_result_is_read_by_its_sentence() -> None:
    former = RESULT.model_copy(update={"missed": f"Sharded the checkpoint, for {SETS[1].removesuffix('.')}."})
    assert former.quarantined_besides == SETS[:1]
    assert RESULT.quarantined_besides == SETS


def test_a_termination_message_that_leaves_out_the_sentence_leaves_out_no_set() -> None:
    result = RESULT.model_copy(update={"missed": "é" * MAX_MISSED, "quarantined_in_missed": 2})
    texts = ("source_fingerprint", "source_content", "model_type", "compiled_key", "shards_key")
    report = Report(
        pod_uid="u",
        spec_hash="h",
        stage=Stage.PREPARE,
        state=State.FAILED,
        started_at=datetime(2026, 1, 1, tzinfo=UTC),
        result=result.model_copy(update=dict.fromkeys(texts, "é" * 256)),
    )
    found = parse_report(report.termination_message()).result
    assert found is not None
    assert (found.missed, found.quarantined_besides) == (None, SETS)


def test_a_note_is_read_as_it_is_written() -> None:
    note = StartNote("ScratchTierFull", "No copy: 3 bytes are free.")
    assert StartNote.read(str(note)) == note
    assert StartNote.read("ScratchTierFull: No copy: 3 bytes are free.") == note
