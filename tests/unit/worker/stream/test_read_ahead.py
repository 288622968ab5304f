"""Many chunks are under way from a network while few threads compute, and their memory is bounded."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from neuronmodel_worker.checkpoint import open_checkpoint
from neuronmodel_worker.plan.streamed import StreamedPlan, make_plan
from neuronmodel_worker.sources.remote.remote_source import RemoteSource
from neuronmodel_worker.sources.s3.bucket import PARALLEL_READS, open_bucket
from neuronmodel_worker.stream import FileSink, Sizes, TensorSink, run
from tests.standins.hub import Hub
from tests.standins.s3 import S3
from tests.unit.worker.sharding import small_source
from tests.unit.worker.sources.hubs import REPOSITORY, opened, set_part_bytes, wait_little
from tests.unit.worker.sources.s3.test_bucket import asking, keys
from tests.waiting import PATIENCE_SECONDS, until

SIZES = Sizes(chunk_bytes=2048, held_bytes=1 << 20, wide_bytes=1 << 20, memory_bytes=64 << 20)


class Counted:
    """Ranges that a source is at. The first ones come when as many are under way as there may be."""

    def __init__(self, source: RemoteSource) -> None:
        self._reading, self._enough = source._reading, source.parallel_reads
        self._now = 0
        self._changed = threading.Condition()
        self.most = 0
        source._reading = self._counted  # type: ignore[method-assign]

    @contextmanager
    def _counted(self) -> Iterator[None]:
        with self._reading(), self._changed:
            self._now += 1
            self.most = max(self.most, self._now)
            self._changed.notify_all()
            assert self._changed.wait_for(lambda: self.most >= self._enough, timeout=PATIENCE_SECONDS)
            yield
            self._now -= 1


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    wait_little(monkeypatch)
    set_part_bytes(monkeypatch, SIZES.chunk_bytes)
    monkeypatch.setattr("neuronmodel_worker.sources.remote.remote_source.HEAD_BYTES", 64)
    monkeypatch.setattr("neuronmodel_worker.sources.s3.bucket.available_bytes", lambda: 1 << 40)
    return small_source(tmp_path / "source", files=2, num_hidden_layers=6)


@pytest.fixture
def s3(folder: Path) -> Iterator[S3]:
    with S3() as s3:
        s3.add_bucket("models", folder, "llama/")
        yield s3


@pytest.fixture
def bucket(s3: S3) -> RemoteSource:
    return open_bucket(asking(s3, keys(s3.add_key())))


def plan_of(source: RemoteSource) -> StreamedPlan:
    return make_plan(open_checkpoint(source), {"tp_degree": 2})


@pytest.mark.parametrize("to_files", [False, True], ids=["memory", "files"])
def test_with_two_threads_as_many_ranges_are_under_way_as_s3_wants(
    bucket: RemoteSource, tmp_path: Path, *, to_files: bool
) -> None:
    plan = plan_of(bucket)
    counted = Counted(bucket)
    run(plan, FileSink(tmp_path / "weights") if to_files else TensorSink(), threads=2, sizes=SIZES)
    assert counted.most == PARALLEL_READS == 64


def test_of_the_hub_fewer_are(folder: Path) -> None:
    with Hub() as hub:
        hub.add_repository(REPOSITORY, folder)
        repository = opened(hub)
        plan = plan_of(repository)
        counted = Counted(repository)
        run(plan, TensorSink(), threads=2, sizes=SIZES)
    assert counted.most == 16


def test_the_server_sees_them_at_once(s3: S3, bucket: RemoteSource) -> None:
    plan = plan_of(bucket)
    s3.requests.clear()
    rule = s3.faults.add(operation="get", never_answers=True, count=PARALLEL_READS)
    thread = threading.Thread(target=run, args=(plan, TensorSink()), kwargs={"threads": 2, "sizes": SIZES})
    thread.start()
    until(lambda: s3.requests.count(operation="get") >= PARALLEL_READS, "64 requests to be open")
    s3.faults.remove(rule.number)
    thread.join()
