"""What a worker may report fits where it is reported, and status takes what a report may hold."""

from datetime import UTC, datetime
from typing import Any, get_args

import pytest

from neuronmodel_api.config import Strategy
from neuronmodel_api.report import (
    MAX_MISSED,
    MAX_NOTE,
    MAX_NOTES,
    MAX_PHASES,
    MAX_TERMINATION_BYTES,
    Choice,
    Devices,
    Note,
    PhaseReport,
    Report,
    Result,
    Sealing,
    SealingState,
    Sizing,
    Stage,
    State,
    Tier,
    parse_report,
)
from tests import crd

NOW = datetime(2026, 1, 1, tzinfo=UTC)
KEY = "k" * 64
NODES = dict(crd.walk(crd.schema_of(crd.definition())))
CHOICE = Choice(
    strategy=Strategy.SHARD_ON_LOAD,
    reason="W" * 128,
    message="é" * MAX_NOTE,
    source_bytes=2**62,
    shard_bytes=2**62,
    load_bytes_per_second=2**62,
    read_bytes_per_second=2**62,
    write_bytes_per_second=2**62,
    starts_per_source="999999.99",
    on_compile_milliseconds=2**39,
    on_load_milliseconds=2**39,
)
SIZING = Sizing(
    host_memory_bytes=2**62,
    shared_memory_bytes=2**62,
    scratch_bytes=2**62,
    copy_bytes=2**62,
    rank_bytes=2**62,
    cache_bytes=2**62,
    reserve_bytes=2**62,
    core_bytes=2**62,
    estimated=True,
)
DEVICES = Devices(
    count=2**62,
    cores=2**62,
    logical_core_config=2**62,
    driver="é" * 256,
    versions={f"{n:02}{'é' * 254}": "é" * 256 for n in range(16)},
)
RESULT = Result(
    source_fingerprint=KEY,
    source_content=KEY,
    model_type="qwen3_moe",
    compiled_key=KEY,
    shards_key=KEY,
    strategy=Strategy.SHARD_ON_LOAD,
    choice=CHOICE,
    cache="Miss",
    missed="é" * MAX_MISSED,
    sizing=SIZING,
    quarantined=("é" * MAX_NOTE,) * MAX_NOTES,
)
FULLEST = Report(
    pod_uid=KEY,
    spec_hash=KEY,
    stage=Stage.PREPARE,
    state=State.SUCCEEDED,
    started_at=NOW,
    phases=tuple(PhaseReport(name=f"P{n}", started_at=NOW, milliseconds=n) for n in range(MAX_PHASES)),
    result=RESULT,
    tier="Source",
    notes=tuple(Note(reason=f"N{n}", message="é" * MAX_NOTE) for n in range(MAX_NOTES)),
    sealing=Sealing(state=SealingState.FAILED, message="é" * MAX_NOTE),
    devices=DEVICES,
)


def test_the_longest_report_fits_a_termination_message_with_all_that_is_acted_on() -> None:
    message = FULLEST.termination_message()
    assert len(message.encode()) <= MAX_TERMINATION_BYTES
    found = parse_report(message).result
    assert found is not None
    keys = {"source_fingerprint", "source_content", "compiled_key", "shards_key", "strategy", "cache", "sizing"}
    assert found.model_dump(include=keys) == RESULT.model_dump(include=keys)


def test_a_report_that_fits_keeps_everything_that_it_says() -> None:
    result = RESULT.model_copy(update={"missed": "The shards were built.", "quarantined": ("é" * MAX_NOTE,)})
    devices = Devices(count=16, cores=64, driver="2.24", versions={"neuronx-cc": "2.22"})
    brief = FULLEST.model_copy(update={"phases": FULLEST.phases[:3], "notes": (), "result": result, "devices": devices})
    assert parse_report(brief.termination_message()) == brief


def bounds_of(schema: dict[str, Any]) -> tuple[int | None, int | None]:
    return schema.get("maxLength"), schema.get("maxItems")


@pytest.mark.parametrize(
    ("field", "length", "items"),
    [
        ("status.strategy.message", MAX_NOTE, None),
        ("status.artifacts.missed", MAX_MISSED, None),
        ("status.starts[].notes", None, MAX_NOTES),
        ("status.starts[].sourceContent", 256, None),
    ],
)
def test_status_is_bounded_as_reports_are(field: str, length: int | None, items: int | None) -> None:
    assert bounds_of(NODES[field]) == (length, items)


def test_status_takes_every_version_that_a_report_may_name() -> None:
    versions, driver = (NODES[f"status.starts[].devices.{name}"] for name in ("versions", "driverVersion"))
    assert len(DEVICES.versions) == versions["maxProperties"]
    assert {len(each) for each in DEVICES.versions.values()} == {versions["additionalProperties"]["maxLength"]}
    assert len(DEVICES.driver or "") == driver["maxLength"]


def test_a_note_with_its_reason_has_room_in_status() -> None:
    assert NODES["status.starts[].notes[]"]["maxLength"] >= 128 + len(": ") + MAX_NOTE


def test_status_takes_every_word_of_a_report() -> None:
    assert set(NODES["status.starts[].tier"]["enum"]) == set(get_args(Tier))
    assert set(NODES["status.artifacts.sealing"]["enum"]) == set(SealingState)
    assert NODES["status.strategy.inputs.startsPerSource"]["pattern"] == schema_pattern("startsPerSource")


def schema_pattern(field: str) -> str:
    pattern: str = Choice.model_json_schema()["properties"][field]["pattern"]
    return pattern
