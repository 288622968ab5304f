"""The worker's /metrics: what a scrape gets while a model serves, and while a volume hangs."""

import asyncio
import os
import threading
import time
from pathlib import Path

import pytest

from neuronmodel_api.report import DiskRates, Stage
from neuronmodel_worker.report import volume_room
from neuronmodel_worker.report.clock import FirstLine, StartClock
from neuronmodel_worker.report.metrics import WorkerMetrics

VLLM = {"model_name": "smol", "engine": "0"}


@pytest.fixture
def clock() -> StartClock:
    return StartClock(Stage.SERVE, FirstLine.now())


def value(metrics: WorkerMetrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(name, labels)


@pytest.mark.parametrize("reason", ["stop", "length", None])
def test_an_answer_is_counted_under_both_names(clock: StartClock, reason: str | None) -> None:
    metrics = WorkerMetrics(clock)
    metrics.show_under_vllm_names("smol")
    arrived = time.monotonic() - 3
    metrics.waited(2.0)
    answer = metrics.answering(5)
    for _ in range(3):
        answer.token(arrived)
    answer.ended(arrived, reason)
    assert value(metrics, "neuronmodel_prompt_tokens_total") == value(metrics, "vllm:prompt_tokens_total", **VLLM) == 5
    assert value(metrics, "neuronmodel_generated_tokens_total") == 3
    assert value(metrics, "vllm:generation_tokens_total", **VLLM) == 3
    for own, named in (
        ("neuronmodel_time_to_first_token_seconds", "vllm:time_to_first_token_seconds"),
        ("neuronmodel_time_between_tokens_seconds", "vllm:inter_token_latency_seconds"),
        ("neuronmodel_answer_seconds", "vllm:e2e_request_latency_seconds"),
        ("neuronmodel_queue_seconds", "vllm:request_queue_time_seconds"),
    ):
        count = 2 if "tokens_seconds" in own else 1
        assert value(metrics, f"{own}_count") == value(metrics, f"{named}_count", **VLLM) == count
        assert value(metrics, f"{own}_sum") == pytest.approx(value(metrics, f"{named}_sum", **VLLM), abs=1e-3)
    first = value(metrics, "neuronmodel_time_to_first_token_seconds_sum")
    assert first is not None
    assert first >= 3
    assert value(metrics, "vllm:request_success_total", **VLLM, finished_reason=reason or "abort") == 1
    assert value(metrics, "vllm:request_prompt_tokens_sum", **VLLM) == 5
    assert value(metrics, "vllm:request_generation_tokens_sum", **VLLM) == 3


def test_a_server_that_is_vllm_has_its_own_names(clock: StartClock) -> None:
    metrics = WorkerMetrics(clock)
    metrics.queue(waiting=2, running=1)
    assert value(metrics, "neuronmodel_requests_waiting") == 2
    assert value(metrics, "neuronmodel_requests_running") == 1
    names = {sample.name for family in metrics.registry.collect() for sample in family.samples}
    assert not [name for name in names if name.startswith("vllm:")]


def test_what_the_disk_did_is_shown_beside_its_probe(clock: StartClock) -> None:
    metrics = WorkerMetrics(clock)
    clock.measured(DiskRates(read_bytes_per_second=400, probed_read_bytes_per_second=1600))
    assert value(metrics, "neuronmodel_disk_bytes_per_second", direction="read", measured="start") == 400
    assert value(metrics, "neuronmodel_disk_bytes_per_second", direction="read", measured="probe") == 1600
    assert value(metrics, "neuronmodel_disk_bytes_per_second", direction="write", measured="start") is None


async def test_the_room_of_each_volume_that_is_there_is_measured_at_each_scrape(
    clock: StartClock, tmp_path: Path
) -> None:
    metrics = WorkerMetrics(clock, {"Artifacts": tmp_path, "Scratch": tmp_path / "absent"})
    await metrics.exposition()
    volume = os.statvfs(tmp_path)
    assert value(metrics, "neuronmodel_volume_size_bytes", volume="Artifacts") == volume.f_blocks * volume.f_frsize
    assert value(metrics, "neuronmodel_volume_available_bytes", volume="Scratch") is None
    (tmp_path / "absent").mkdir()
    await metrics.exposition()
    assert value(metrics, "neuronmodel_volume_available_bytes", volume="Scratch")


async def test_a_volume_that_hangs_holds_up_neither_the_page_nor_the_port(
    clock: StartClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    metrics = WorkerMetrics(clock, {"Artifacts": tmp_path})
    await metrics.exposition()
    let, calls, real = threading.Event(), [0], os.statvfs

    def hanging(path: Path) -> os.statvfs_result:
        calls[0] += 1
        let.wait()
        return real(path)

    monkeypatch.setattr(os, "statvfs", hanging)
    monkeypatch.setattr(volume_room, "PATIENCE_SECONDS", 0.01)
    for _ in range(3):
        assert b'neuronmodel_volume_size_bytes{volume="Artifacts"}' in await metrics.exposition()
    assert calls == [1]
    let.set()
    while not metrics._room._asking["Artifacts"].is_set():  # noqa: ASYNC110 - a thread sets it
        await asyncio.sleep(0)
