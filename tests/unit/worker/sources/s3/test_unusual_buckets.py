"""Servers without ETags, places with more than one checkpoint, and machines with little memory."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from neuronmodel_worker.checkpoint import open_checkpoint
from neuronmodel_worker.failures import SourceChanged
from neuronmodel_worker.plan.streamed import make_plan
from neuronmodel_worker.sources.s3.address import S3Address
from neuronmodel_worker.sources.s3.answers import BucketNotFound
from neuronmodel_worker.sources.s3.bucket import S3Bucket, open_bucket, reads_within
from neuronmodel_worker.sources.s3.client import S3Client, S3Server
from neuronmodel_worker.sources.s3.credentials import Anonymous
from tests.standins.s3 import S3, Grant
from tests.unit.worker.sharding import small_source
from tests.unit.worker.sources.hubs import wait_little

WEIGHTS = "model-00001-of-00002.safetensors"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return small_source(tmp_path / "source", files=2)


@pytest.fixture
def s3(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3]:
    wait_little(monkeypatch)
    with S3() as s3:
        s3.add_bucket("models", folder, "llama/", public=Grant())
        yield s3


def opened(s3: S3, uri: str = "s3://models/llama") -> S3Bucket:
    return open_bucket(S3Client(S3Server(endpoint=s3.endpoint), S3Address.parse(uri), Anonymous()))


@pytest.fixture
def without_etags(s3: S3, folder: Path) -> S3Bucket:
    s3.bucket("models").etags = "none"
    s3.bucket("models").add_folder(folder, "llama/")
    return opened(s3)


def test_a_server_without_etags_is_read_and_the_plan_says_what_that_means(
    s3: S3, without_etags: S3Bucket, folder: Path
) -> None:
    warning = "whether they change is told by size and Last-Modified alone, to the second"
    plan = make_plan(open_checkpoint(without_etags), {"tp_degree": 2})
    assert [warning in each for each in plan.warnings] == [True]
    file = without_etags.files[WEIGHTS]
    assert without_etags.read_range(file, 3, 99).tobytes() == (folder / WEIGHTS).read_bytes()[3:102]
    s3.bucket("models").put("llama/config.json", folder / "config.json")
    assert opened(s3).resolution.revision != without_etags.resolution.revision


def test_an_object_without_an_etag_that_was_replaced_is_seen(s3: S3, without_etags: S3Bucket, folder: Path) -> None:
    file = without_etags.files[WEIGHTS]
    s3.bucket("models").put(f"llama/{WEIGHTS}", bytes(reversed((folder / WEIGHTS).read_bytes())))
    with pytest.raises(SourceChanged, match="it was replaced"):
        without_etags.read_range(file, 3, 99)


def test_with_etags_there_is_nothing_to_say(s3: S3) -> None:
    assert not opened(s3).warnings


def test_what_lies_beside_or_below_a_checkpoint_is_not_its_own(s3: S3, folder: Path) -> None:
    first = opened(s3)
    s3.bucket("models").add_folder(folder, "llama-2/")
    s3.bucket("models").add_folder(folder, "llama/original/")
    assert opened(s3).resolution.revision == first.resolution.revision
    assert opened(s3).files.keys() == first.files.keys()
    assert opened(s3, "s3://models/llama/original").files.keys() == first.files.keys()
    with pytest.raises(BucketNotFound, match=r"there is llama/, llama-2/ in the same place"):
        opened(s3, "s3://models/lla")
    with pytest.raises(BucketNotFound, match=r"has no config\.json, but llama/, llama-2/ below it"):
        opened(s3, "s3://models")


def test_a_bucket_that_may_not_be_listed_is_read_by_names(s3: S3, folder: Path) -> None:
    s3.bucket("models").public = Grant(may_list=False)
    source = opened(s3)
    assert open_checkpoint(source).tensors.keys() == open_checkpoint(folder).tensors.keys()
    assert source.folder().is_dir()


@pytest.mark.parametrize(("gib", "reads"), [(0, 16), (2, 16), (8, 32), (15, 60), (16, 64), (2000, 64)])
def test_with_little_memory_fewer_ranges_are_read_at_a_time(gib: int, reads: int) -> None:
    assert reads_within(gib << 30) == reads


def test_ranges_that_are_read_at_a_time_are_counted_as_memory(s3: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("neuronmodel_worker.sources.s3.bucket.available_bytes", lambda: 8 << 30)
    source = opened(s3)
    assert (source.parallel_reads, source.buffer_bytes) == (32, 2 * 32 * (16 << 20))
