"""Shards from a Hub are those from the folder, byte for byte, whatever goes wrong on the way; or there is a refusal."""

import json
import ssl
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from neuronmodel_worker.checkpoint import open_checkpoint
from neuronmodel_worker.plan.streamed import StreamedPlan, make_plan
from neuronmodel_worker.sources import WeightSource
from neuronmodel_worker.sources.remote import byte_ranges, remote_source
from neuronmodel_worker.sources.remote.refusals import SourceForbidden, SourceRateLimited, SourceUnreachable
from neuronmodel_worker.stream import ContentDigests, FileSink, Sizes, TensorSink, check_content, run, take_digests
from tests.generated import write_checkpoint
from tests.model_cases import FAMILIES, cases
from tests.paths import GOLDEN
from tests.standins.hub import Hub
from tests.unit.worker.sharding import small_source
from tests.unit.worker.sources.hubs import REPOSITORY, delivered, opened, set_part_bytes, wait_little

TINY = Sizes(chunk_bytes=2000, held_bytes=1000, wide_bytes=300, seal_bytes=3000)
GOLDEN_CASES = sorted(
    f"{path.parent.name}/{path.stem}"
    for family in FAMILIES
    for path in (GOLDEN / family).glob("*.json")
    if path.stem != "errors"
)


@pytest.fixture(scope="module")
def hub() -> Iterator[Hub]:
    with Hub() as hub:
        yield hub


CONTEXT = ssl.create_default_context()
"""Making one takes a quarter of such a test, and none is used."""


@pytest.fixture(autouse=True)
def _small_heads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only headers are read of a file at first, so that weights are read by ranges; a part is of a few rows."""
    monkeypatch.setattr(ssl, "create_default_context", lambda: CONTEXT)
    monkeypatch.setattr(remote_source, "HEAD_BYTES", 8)
    set_part_bytes(monkeypatch, 5000)


def tensors(plan: StreamedPlan, **options: Any) -> list[dict[str, bytes]]:
    sink = TensorSink()
    run(plan, sink, **options)
    return [{name: tensor.data.tobytes() for name, tensor in rank.items()} for rank in sink.tensors]


def files(plan: StreamedPlan, weights: Path, **options: Any) -> dict[str, bytes]:
    run(plan, FileSink(weights), **options)
    return {path.name: path.read_bytes() for path in weights.iterdir()}


def planned(source: WeightSource | Path, flags: Mapping[str, Any]) -> StreamedPlan:
    return make_plan(open_checkpoint(source), flags)


@pytest.mark.parametrize("name", GOLDEN_CASES)
def test_shards_of_every_golden_case_are_those_of_the_folder(name: str, hub: Hub, tmp_path: Path) -> None:
    case = json.loads((GOLDEN / f"{name}.json").read_text())
    folder = write_checkpoint(tmp_path / "source", case)
    hub.add_repository(REPOSITORY, folder)
    expected = tensors(planned(folder, case["neuron_config"]), threads=2)
    assert tensors(planned(opened(hub), case["neuron_config"]), threads=4) == expected


FLAGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "transposing": {"fused_qkv": True, "qkv_kernel_enabled": True, "mlp_kernel_enabled": True},
}


@pytest.mark.parametrize("flags", FLAGS)
@pytest.mark.parametrize("part_bytes", [1500, 1 << 24])
@pytest.mark.parametrize("sizes", [Sizes(), TINY], ids=["usual", "tiny"])
def test_files_are_those_of_the_folder_with_an_observer_and_sealed(
    flags: str, part_bytes: int, sizes: Sizes, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_part_bytes(monkeypatch, part_bytes)
    folder = small_source(tmp_path / "source", files=2, intermediate_size=192)
    hub.add_repository(REPOSITORY, folder)
    fields = {"tp_degree": 4, **FLAGS[flags]}
    expected = files(planned(folder, fields), tmp_path / "expected")
    plan, observer = planned(opened(hub), fields), ContentDigests()
    assert files(plan, tmp_path / "plain", sizes=sizes) == expected
    assert files(plan, tmp_path / "observed", sizes=sizes, observer=observer) == expected
    pieces = observer.pieces()
    assert check_content(open_checkpoint(folder), pieces, plan.reads) is None
    sealed: list[int] = []
    sink = FileSink(tmp_path / "sealed", seal=lambda rank, file: sealed.append(rank))
    run(plan, sink, sizes=sizes, observer=ContentDigests())
    assert {path.name: path.read_bytes() for path in (tmp_path / "sealed").iterdir()} == expected
    assert sorted(sealed) == [0, 1, 2, 3]


def test_digests_are_those_of_the_folder(hub: Hub, tmp_path: Path) -> None:
    folder = small_source(tmp_path / "source", files=2)
    hub.add_repository(REPOSITORY, folder)
    assert take_digests(open_checkpoint(opened(hub))).pieces() == take_digests(open_checkpoint(folder)).pieces()


def test_every_byte_is_sent_and_hardly_one_twice(hub: Hub, tmp_path: Path) -> None:
    folder = small_source(tmp_path / "source", files=2)
    hub.add_repository(REPOSITORY, folder)
    plan = planned(opened(hub), {"tp_degree": 4, **FLAGS["transposing"]})
    hub.requests.clear()
    result = run(plan, TensorSink(), sizes=TINY)
    assert result.bytes_read == plan.source_bytes
    sent = sum(record.bytes_sent for record in delivered(hub))
    assert plan.source_bytes <= sent < 1.5 * plan.source_bytes, "what a pass was faster at may be fetched again"


REASONS = (SourceUnreachable, SourceRateLimited, SourceForbidden)

AT_THE_HUB: list[dict[str, Any]] = [
    {"status": 429, "set_headers": {"Retry-After": "0"}},
    {"status": 429, "set_headers": {"RateLimit": '"api";r=0;t=0'}},
    {"status": 500},
    {"status": 502},
    {"status": 503},
    {"cut_before_headers": True},
    {"cut_before_headers": True, "reset": True},
    {"cut_after_bytes": 3},
    {"cut_after_bytes": 90, "reset": True},
]
AT_THE_CDN: list[dict[str, Any]] = [
    *AT_THE_HUB,
    {"short_by": 1},
    {"short_by": 10_000},
    {"ignore_range": True},
    {"html": True},
    {"set_headers": {"Content-Length": "1"}},
    {"set_headers": {"Content-Length": "99999"}},
    {"set_headers": {"Content-Range": "bytes 1-2/3"}},
    {"drop_headers": ("Content-Range",)},
    {"drop_headers": ("Content-Length", "ETag"), "cut_after_bytes": 5},
    {"status": 403},
]


@st.composite
def faults(draw: st.DrawFn) -> dict[str, Any]:
    origin = draw(st.sampled_from(["hub", "cdn", "cdn"]))
    how = draw(st.sampled_from(AT_THE_HUB if origin == "hub" else AT_THE_CDN))
    chance = draw(st.sampled_from([0.05, 0.2, 0.5, 1.0]))
    count = draw(st.sampled_from([1, 3, None]))
    return {"origin": origin, **how, "probability": chance, "seed": draw(st.integers(0, 99)), "count": count}


@contextmanager
def patched(part_bytes: int, rules: list[dict[str, Any]]) -> Iterator[None]:
    """A server that announces another length than it sends keeps its client waiting for the rest."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        wait_little(monkeypatch)
        if "Content-Length" in str(rules):
            monkeypatch.setitem(byte_ranges.TIMEOUTS, "read_timeout", timedelta(milliseconds=50))
            monkeypatch.setitem(byte_ranges.WITHIN, "max_retries", 0)
        monkeypatch.setattr(remote_source, "HEAD_BYTES", 64)
        monkeypatch.setattr("neuronmodel_worker.sources.remote.retries.MOST_ATTEMPTS", 8)
        set_part_bytes(monkeypatch, part_bytes)
        yield


SIZES = st.sampled_from([Sizes(), TINY])
OBSERVERS: st.SearchStrategy[Callable[[], ContentDigests | None]] = st.sampled_from([ContentDigests, lambda: None])


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)
@given(
    data=st.data(),
    family=st.sampled_from(FAMILIES),
    part_bytes=st.sampled_from([37, 200, 1000, 1 << 24]),
    sizes=SIZES,
    observer=OBSERVERS,
    rules=st.lists(faults(), max_size=4),
    lifetime=st.sampled_from([1.0, 3600.0]),
)
def test_whatever_goes_wrong_the_bytes_are_the_same_or_there_is_a_refusal(
    hub: Hub,
    data: st.DataObject,
    family: str,
    part_bytes: int,
    sizes: Sizes,
    observer: Callable[[], ContentDigests | None],
    rules: list[dict[str, Any]],
    lifetime: float,
) -> None:
    case = data.draw(cases(family))
    with tempfile.TemporaryDirectory() as directory, patched(part_bytes, rules):
        folder = write_checkpoint(Path(directory), case)
        hub.add_repository(REPOSITORY, folder)
        hub.signer.lifetime_seconds = lifetime
        expected = tensors(planned(folder, case["neuron_config"]), threads=2)
        for rule in rules:
            hub.faults.add(**rule)
        try:
            found = tensors(planned(opened(hub), case["neuron_config"]), threads=4, sizes=sizes, observer=observer())
        except REASONS:
            assert rules or lifetime == 1.0, "nothing went wrong"
        else:
            assert found == expected
        finally:
            hub.faults.clear()
            hub.signer.lifetime_seconds = 3600.0
    assert hub.requests.leaks == []
    hub.requests.clear()
