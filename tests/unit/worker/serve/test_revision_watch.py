"""Whether a revision has moved is asked while the model answers, and is never the start's business."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from neuronmodel_api.report import Report, Stage
from neuronmodel_api.sources import HubSource, S3Source
from neuronmodel_worker.report.clock import FirstLine, StartClock
from neuronmodel_worker.serve.revision_watch import RevisionWatch, watching_revision
from tests.standins.hub import Hub
from tests.standins.s3 import S3, Grant
from tests.unit.worker.sources.hubs import REPOSITORY, TOKEN, wait_little
from tests.waiting import until


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    wait_little(monkeypatch)
    (tmp_path / "first").mkdir()
    (tmp_path / "first" / "config.json").write_text("{}")
    with Hub() as hub:
        hub.add_repository(REPOSITORY, tmp_path / "first")
        yield hub


@pytest.fixture
def clock() -> StartClock:
    return StartClock(Stage.SERVE, FirstLine.now())


def source_of(hub: Hub, **fields: object) -> HubSource:
    commit = hub.repository(REPOSITORY).main
    given = {"repository": REPOSITORY, "endpoint": hub.endpoint, "commit": commit, "check_seconds": 60}
    return HubSource.model_validate(given | fields)


def move(hub: Hub, tmp_path: Path) -> str:
    (tmp_path / "second").mkdir()
    (tmp_path / "second" / "config.json").write_text('{"a": 1}')
    return hub.add_revision(REPOSITORY, tmp_path / "second", "main")


def reasons(report: Report) -> list[str]:
    return [note.reason for note in report.notes]


def test_the_report_has_the_commit_that_the_revision_is_at(hub: Hub, clock: StartClock, tmp_path: Path) -> None:
    watch = RevisionWatch(source_of(hub), 60, clock)
    watch.ask()
    first = clock.snapshot().latest_revision
    assert first == hub.repository(REPOSITORY).main
    move(hub, tmp_path)
    watch.ask()
    assert clock.snapshot().latest_revision == hub.repository(REPOSITORY).main != first


def test_a_server_out_of_reach_is_a_note_until_it_answers(hub: Hub, clock: StartClock) -> None:
    watch = RevisionWatch(source_of(hub), 60, clock)
    clock.note("TierFull", "Of something else.")
    hub.down()
    watch.ask()
    assert reasons(clock.snapshot()) == ["TierFull", "SourceUnreachable"]
    assert clock.snapshot().latest_revision is None
    hub.up()
    watch.ask()
    assert reasons(clock.snapshot()) == ["TierFull"]


def test_a_refusal_is_a_note_with_its_own_reason(hub: Hub, clock: StartClock, tmp_path: Path) -> None:
    hub.repository(REPOSITORY).private = True
    watch = RevisionWatch(source_of(hub, token_file=str(tmp_path / "token")), 60, clock)
    watch.ask()
    assert reasons(clock.snapshot()) == ["RepositoryNotFound"]
    hub.add_token(TOKEN, "org")
    (tmp_path / "token").write_text(TOKEN)
    watch.ask()
    assert reasons(clock.snapshot()) == []
    assert TOKEN not in clock.snapshot().model_dump_json()


def test_it_is_asked_again_and_again_and_not_at_the_start(hub: Hub, clock: StartClock) -> None:
    slow = source_of(hub, check_seconds=3600)
    with watching_revision(slow, clock):
        assert not list(hub.requests)
    watch = RevisionWatch(source_of(hub), 0.01, clock)
    watch.start()
    until(lambda: hub.requests.count(path="*/revision/*") >= 3)
    watch.stop()
    assert clock.snapshot().latest_revision == slow.commit


@pytest.mark.parametrize(
    "fields", [{"commit": None}, {"check_seconds": None}, None], ids=["prepare", "never", "folder"]
)
def test_nothing_is_asked_where_nothing_can_move(hub: Hub, clock: StartClock, fields: dict[str, None] | None) -> None:
    source = None if fields is None else source_of(hub, **{"check_seconds": 1, **fields})
    with watching_revision(source, clock):
        pass
    assert not list(hub.requests)


def test_stopping_ends_a_wait_for_the_server(hub: Hub, clock: StartClock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("neuronmodel_worker.sources.remote.retries.FIRST_ATTEMPTS", 10**6)
    watch = RevisionWatch(source_of(hub), 0.0, clock)
    hub.down()
    watch.start()
    until(lambda: watch._budget is not None and watch._budget.traffic.retries > 0)
    watch.stop()
    until(lambda: not watch._thread.is_alive())
    assert not clock.snapshot().notes, "the end of the worker is no fault of the server"


def test_the_latest_reason_is_the_one_that_is_noted(hub: Hub, clock: StartClock) -> None:
    watch = RevisionWatch(source_of(hub), 60, clock)
    hub.down()
    watch.ask()
    hub.up()
    hub.repository(REPOSITORY).private = True
    watch.ask()
    assert reasons(clock.snapshot()) == ["RepositoryNotFound"]


# Of a bucket, whose state is what its list says.


@pytest.fixture
def s3(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3]:
    wait_little(monkeypatch)
    (tmp_path / "llama").mkdir()
    (tmp_path / "llama" / "config.json").write_text("{}")
    with S3() as s3:
        s3.add_bucket("models", tmp_path / "llama", "llama/", public=Grant())
        yield s3


def bucket_of(s3: S3, **fields: object) -> S3Source:
    given = {"uri": "s3://models/llama", "endpoint": s3.endpoint, "anonymous": True, "revision": "a" * 64}
    return S3Source.model_validate({**given, "check_seconds": 60, **fields})


def test_the_report_has_the_state_that_a_bucket_is_at(s3: S3, clock: StartClock) -> None:
    watch = RevisionWatch(bucket_of(s3), 60, clock)
    watch.ask()
    first = clock.snapshot().latest_revision
    assert first
    watch.ask()
    assert clock.snapshot().latest_revision == first
    s3.bucket("models").put("llama/README.md", b"of no matter")
    watch.ask()
    assert clock.snapshot().latest_revision == first
    s3.bucket("models").put("llama/config.json", b'{"a": 1}')
    watch.ask()
    assert clock.snapshot().latest_revision not in (None, first)


def test_a_bucket_out_of_reach_or_refused_is_a_note_until_it_answers(s3: S3, clock: StartClock) -> None:
    watch = RevisionWatch(bucket_of(s3), 60, clock)
    s3.down()
    watch.ask()
    assert reasons(clock.snapshot()) == ["SourceUnreachable"]
    s3.up()
    s3.bucket("models").public = Grant(may_list=False, may_get=False)
    watch.ask()
    assert reasons(clock.snapshot()) == ["SourceForbidden"]
    s3.bucket("models").public = Grant()
    watch.ask()
    assert reasons(clock.snapshot()) == []


@pytest.mark.parametrize("fields", [{"revision": None}, {"check_seconds": None}], ids=["prepare", "never"])
def test_no_bucket_is_asked_where_nothing_can_move(s3: S3, clock: StartClock, fields: dict[str, None]) -> None:
    with watching_revision(bucket_of(s3, **{"check_seconds": 1, **fields}), clock):
        pass
    assert not list(s3.requests)


def test_stopping_ends_a_wait_for_a_bucket(s3: S3, clock: StartClock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("neuronmodel_worker.sources.remote.retries.FIRST_ATTEMPTS", 10**6)
    watch = RevisionWatch(bucket_of(s3), 0.0, clock)
    s3.down()
    watch.start()
    until(lambda: watch._budget is not None and watch._budget.traffic.retries > 0)
    watch.stop()
    until(lambda: not watch._thread.is_alive())
    assert not clock.snapshot().notes
