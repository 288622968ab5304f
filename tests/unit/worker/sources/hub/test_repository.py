"""A repository at one commit: what is read of it, how often, and that it is of that commit."""

import hashlib
import json
import shutil
import traceback
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from neuronmodel_worker.checkpoint import open_checkpoint
from neuronmodel_worker.failures import ConfigInvalid, SourceChanged
from neuronmodel_worker.plan.streamed import make_plan
from neuronmodel_worker.sources import ContentStat, SourceFile
from neuronmodel_worker.sources.hub import repository as module
from neuronmodel_worker.sources.remote import remote_source
from neuronmodel_worker.sources.remote.refusals import SourceForbidden, SourceGated, SourceUnreachable
from neuronmodel_worker.store.source_records import file_stats, listed_content
from neuronmodel_worker.stream import Sizes, TensorSink, buffer_bytes, run
from tests.standins.hub import Hub
from tests.unit.worker.sharding import small_source
from tests.unit.worker.sources.hubs import REPOSITORY, TOKEN, git_digest, opened, set_part_bytes, weights_of
from tests.waiting import until


def test_files_are_those_at_the_top_with_their_digests(hub: Hub, checkpoint: Path) -> None:
    nested = checkpoint.parent / "nested"
    shutil.copytree(checkpoint, nested)
    (nested / "below").mkdir()
    (nested / "below" / "model.safetensors").write_bytes(b"x")
    hub.add_repository("org/nested", nested)
    files = opened(hub, repository="org/nested").files
    assert set(files) == {path.name for path in checkpoint.iterdir()}
    for path in checkpoint.iterdir():
        content, file = path.read_bytes(), files[path.name]
        assert file.nbytes == len(content)
        assert (file.sha256 or file.oid) == (
            hashlib.sha256(content).hexdigest() if path.suffix == ".safetensors" else git_digest(content)
        )


def test_messages_name_repository_commit_and_file(hub: Hub) -> None:
    repository = opened(hub)
    assert str(repository.path("config.json")) == f"{REPOSITORY}@{hub.repository(REPOSITORY).main[:12]}/config.json"
    assert not repository.is_local
    assert repository.names(2) <= repository.files.keys()
    assert len(repository.names(2)) == 2
    assert repository.exists("config.json")
    assert not repository.is_file("other.json")
    with pytest.raises(FileNotFoundError), repository.stream("other.json"):
        pass


def test_a_commit_is_not_looked_up(hub: Hub) -> None:
    commit = hub.repository(REPOSITORY).main
    assert opened(hub, commit).commit == commit
    assert hub.requests.count(path="*/revision/*") == 0


def test_a_checkpoint_is_opened_by_one_request_a_header(hub: Hub) -> None:
    repository = opened(hub)
    open_checkpoint(repository)
    assert hub.requests.count(origin="cdn") == len(weights_of(repository))
    assert hub.requests.count(path="*/resolve/*", method="HEAD") == len(weights_of(repository))
    assert hub.requests.count(path="config.json", method="GET", status=200) == 1


def test_headers_are_read_at_the_same_time_and_once(hub: Hub) -> None:
    repository = opened(hub)
    rule = hub.faults.add(origin="cdn", delay_seconds=3600)
    with ThreadPoolExecutor(1) as threads:
        reading = threads.submit(repository.read_ahead, [*weights_of(repository), "missing.safetensors"])
        until(lambda: rule.num_used == 2, "both at the same time")
        hub.faults.remove(rule.number)
        reading.result()
    hub.requests.clear()
    for name in weights_of(repository):
        with repository.stream(name) as stream:
            stream.read(1000)
            stream.rewind()
            stream.read(1000)
    assert len(hub.requests) == 0


def test_one_header_that_is_refused_ends_the_waits_of_the_others(hub: Hub) -> None:
    repository = opened(hub)
    first, second = weights_of(repository)
    waiting = hub.faults.add(origin="hub", path=first, status=429, set_headers={"Retry-After": "250"})
    hub.faults.add(origin="cdn", path=second, status=403, delay_seconds=0.05)
    with pytest.raises(SourceForbidden, match=rf"{hub.cdn}, where {hub.endpoint} says that .*{second} is, refuses"):
        repository.read_ahead([first, second])
    assert waiting.num_used <= 1
    assert repository.client.budget.traffic.limited.seconds < 200


def test_a_gated_repository_is_refused_before_any_weights(hub: Hub) -> None:
    hub.repository(REPOSITORY).gated = "manual"
    with pytest.raises(SourceGated):
        open_checkpoint(opened(hub))


@pytest.mark.parametrize("nbytes", [7, 999, 1 << 20])
def test_a_stream_is_the_file_in_order(
    hub: Hub, checkpoint: Path, nbytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote_source, "HEAD_BYTES", 1000)
    set_part_bytes(monkeypatch, 30_000)
    repository = opened(hub)
    for name in ("config.json", weights_of(repository)[0]):
        content, found = (checkpoint / name).read_bytes(), b""
        with repository.stream(name) as stream:
            assert stream.nbytes == len(content)
            while (piece := stream.read(nbytes)) and len(found) < 3000:
                found += piece
        assert content.startswith(found)
        assert len(found) >= min(len(content), 3000)


def test_a_file_of_git_that_once_comes_wrong_is_asked_for_again(hub: Hub) -> None:
    hub.faults.add(path="config.json", corrupt=True, count=2)
    open_checkpoint(opened(hub))


def test_a_file_of_git_that_always_comes_wrong_is_refused_soon(hub: Hub) -> None:
    hub.faults.add(path="config.json", corrupt=True)
    with pytest.raises(SourceChanged, match=r"config\.json changed .* lists another content than it delivers"):
        open_checkpoint(opened(hub))
    assert hub.requests.count(path="config.json", status=200) == 3


@pytest.mark.parametrize(
    "headers", [{"X-Linked-ETag": f'"{"0" * 64}"'}, {"X-Linked-Size": "5"}], ids=["another_digest", "another_size"]
)
def test_a_file_that_is_not_the_listed_one_is_refused(hub: Hub, headers: dict[str, str]) -> None:
    repository = opened(hub)
    hub.faults.add(method="HEAD", set_headers=headers)
    with pytest.raises(SourceChanged, match="lists another content than it delivers"):
        repository.read_ahead(weights_of(repository))
    assert hub.requests.count(origin="cdn") == 0


def test_a_file_that_is_gone_is_refused(hub: Hub) -> None:
    repository = opened(hub)
    hub.faults.add(method="HEAD", status=404, set_headers={"X-Error-Code": "EntryNotFound"})
    with pytest.raises(SourceChanged, match="no such file any more"):
        repository.read_ahead(weights_of(repository))


def test_an_index_that_names_a_file_below_is_refused(hub: Hub, checkpoint: Path) -> None:
    other = checkpoint.parent / "other"
    shutil.copytree(checkpoint, other)
    (other / "below").mkdir()
    index = other / "model.safetensors.index.json"
    content = json.loads(index.read_text())
    content["weight_map"] = {name: f"below/{file}" for name, file in content["weight_map"].items()}
    index.write_text(json.dumps(content))
    hub.add_repository("org/below", other)
    with pytest.raises(ConfigInvalid, match=r"names below/model-0.*, which is no file beside it"):
        open_checkpoint(opened(hub, repository="org/below"))


def test_main_moves_and_everything_is_still_of_the_first_commit(hub: Hub, checkpoint: Path, tmp_path: Path) -> None:
    repository = opened(hub)
    other = small_source(tmp_path / "other", files=2, vocab_size=64)
    hub.add_revision(REPOSITORY, other, "main")
    plan = make_plan(open_checkpoint(repository), {"tp_degree": 4})
    expected, found = TensorSink(), TensorSink()
    run(make_plan(open_checkpoint(checkpoint), {"tp_degree": 4}), expected)
    run(plan, found)
    for there, here in zip(expected.tensors, found.tensors, strict=True):
        assert all(np.array_equal(there[name].data, here[name].data) for name in there)
    assert opened(hub).commit != repository.commit


def test_the_fingerprint_is_of_the_content(hub: Hub, checkpoint: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(checkpoint, copy)
    hub.add_repository("other/copy", copy)
    hub.add_repository("other/change", small_source(tmp_path / "change", files=2, num_hidden_layers=1))
    prints = [
        open_checkpoint(opened(hub, repository=name)).fingerprint for name in (REPOSITORY, "other/copy", "other/change")
    ]
    assert prints[0] == prints[1] != prints[2]


def test_the_state_of_a_file_is_its_digest(hub: Hub) -> None:
    repository = opened(hub)
    file = open_checkpoint(repository).files[0]
    sha256 = repository.files[file.path.name].sha256
    assert repository.stat(file) == ContentStat(nbytes=file.nbytes, digest=str(sha256))
    assert file.version == (sha256,)


def test_a_file_of_another_size_is_another_one(hub: Hub) -> None:
    repository = opened(hub)
    name = weights_of(repository)[0]
    for file in (SourceFile(Path(name), 1, 0, ""), SourceFile(Path("gone"), 1, 0, "")):
        with pytest.raises(SourceChanged, match="no such file"):
            repository.open(file)


def test_a_url_that_expires_is_asked_for_again(hub: Hub) -> None:
    repository = opened(hub)
    name = weights_of(repository)[0]
    now = [0.0]
    repository._urls._monotonic = lambda: now[0]
    repository.read_range(repository.files[name], 0, 10)
    expired = hub.signer.clock() + 4000
    hub.signer.clock = lambda: expired
    now[0] = 100.0
    repository.read_range(repository.files[name], 0, 10)
    assert hub.requests.count(path=name, method="HEAD") == 2
    assert hub.requests.count(origin="cdn", status=403) == 1


def test_a_young_url_that_is_refused_is_an_error_with_the_reason(hub: Hub) -> None:
    repository = opened(hub)
    hub.faults.add(origin="cdn", status=403)
    with pytest.raises(SourceForbidden, match=r"refuses to give it: .*as a fault was asked for.*egress rules"):
        repository.read_range(repository.files[weights_of(repository)[0]], 0, 10)
    assert hub.requests.count(origin="cdn") == 1


def test_the_first_bytes_are_not_read_again(hub: Hub, checkpoint: Path) -> None:
    repository = opened(hub)
    found = open_checkpoint(repository)
    hub.requests.clear()
    run(make_plan(found, {"tp_degree": 4}), TensorSink())
    assert len(hub.requests) == 0, "the files are smaller than what is read of each at first"


def mirror(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """Serves large files itself, without the headers that only the Hub has."""
    monkeypatch.setattr("tests.standins.hub.repository.LARGE_NAMES", ())
    hub.faults.add(drop_headers=("X-Repo-Commit", "X-Linked-ETag", "X-Linked-Size", "ETag"))


def test_a_mirror_that_serves_files_itself_gives_the_same(
    hub: Hub, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mirror(hub, monkeypatch)
    monkeypatch.setattr(module, "SMALL_BYTES", 3000)
    hub.add_repository("org/mirrored", checkpoint)
    hub.add_token(TOKEN, "somebody")
    repository = opened(hub, token=TOKEN, repository="org/mirrored")
    for name in weights_of(repository):
        assert repository.files[name].sha256 is None
        data = repository.read_range(repository.files[name], 1000, 5000)
        assert data.tobytes() == (checkpoint / name).read_bytes()[1000:6000]
    assert hub.requests.count(origin="cdn") == 0
    assert all(record.authorized for record in hub.requests)


def test_a_mirror_gets_the_token_that_is_valid_now(hub: Hub, checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mirror(hub, monkeypatch)
    monkeypatch.setattr(module, "SMALL_BYTES", 3000)
    hub.add_repository("org/mirrored", checkpoint)
    tokens = [f"{TOKEN}Old"]
    hub.add_token(tokens[0], "somebody")
    repository = opened(hub, token=lambda: tokens[0], repository="org/mirrored")
    file = repository.files[weights_of(repository)[0]]
    repository.read_range(file, 0, 10)
    hub.revoke(tokens[0])
    tokens[0] = f"{TOKEN}New"
    hub.add_token(tokens[0], "somebody")
    repository.read_range(file, 10, 10)
    hub.revoke(tokens[0])
    with pytest.raises(SourceForbidden):
        repository.read_range(file, 20, 10)


def test_memory_of_a_run_includes_the_sources(hub: Hub, checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    of_hub = make_plan(open_checkpoint(opened(hub)), {"tp_degree": 4})
    of_folder = make_plan(open_checkpoint(checkpoint), {"tp_degree": 4})
    sizes = Sizes(chunk_bytes=5000)

    def added() -> int:
        return buffer_bytes(of_hub, threads=4, sizes=sizes) - buffer_bytes(of_folder, threads=4, sizes=sizes)

    assert added() == 2 * of_hub.source_bytes, "no more than twice what is read"
    monkeypatch.setattr(of_hub.checkpoint.source, "buffer_bytes", 12_345)
    assert added() == 12_345


@pytest.mark.parametrize("listed", ["nothing", "of-one-file"])
def test_a_server_that_lists_no_digests_names_no_content(hub: Hub, tmp_path: Path, listed: str) -> None:
    """Other weights of the same headers must not pass for these: their keys would be one."""
    other = tmp_path / "other"
    shutil.copytree(tmp_path / "source", other)
    for path in other.glob("*.safetensors"):
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)
    hub.add_revision(REPOSITORY, other, "changed")
    found = []
    for revision in ("main", "changed"):
        repository = opened(hub, revision)
        bare = weights_of(repository)[: 1 if listed == "of-one-file" else None]
        for name in bare:
            repository.files[name] = replace(repository.files[name], sha256=None, oid="")
        checkpoint = open_checkpoint(repository)
        assert listed_content(checkpoint, file_stats(checkpoint)) is None
        found.append(checkpoint.fingerprint)
    assert found[0] != found[1]


def test_no_traceback_has_a_signature(hub: Hub) -> None:
    repository = opened(hub)
    hub.faults.add(origin="cdn", status=403)
    with pytest.raises(SourceForbidden) as refused:
        repository.read_range(repository.files[weights_of(repository)[0]], 0, 10)
    shown = "".join(traceback.format_exception(refused.value))
    assert "Signature" not in shown
    assert "Policy" not in shown


def test_a_run_ends_with_what_failed_first(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other threads end because they are told to, which says nothing."""
    monkeypatch.setattr(remote_source, "HEAD_BYTES", 8)
    plan = make_plan(open_checkpoint(opened(hub)), {"tp_degree": 4})
    hub.faults.add(origin="cdn", status=403, count=1)
    hub.faults.add(origin="cdn", status=503)
    with pytest.raises((SourceForbidden, SourceUnreachable)) as failure:
        run(plan, TensorSink(), sizes=Sizes(chunk_bytes=2000))
    assert "told to stop" not in str(failure.value)
