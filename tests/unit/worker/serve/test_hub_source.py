"""A model from a repository: prepared from the Hub, and started again without it."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from neuronmodel_api import exits
from tests.standins.hub import Hub
from tests.unit.worker.engines.models import edit_config, write_chat_model
from tests.unit.worker.prepare.test_downloaded_folders import record, sha256
from tests.unit.worker.scratch_cache.test_start import flip
from tests.unit.worker.sources.hubs import delivered
from tests.unit.worker.test_cli import NOTHING_IS_SEALED, ask
from tests.unit.worker.workers import Place, returned

REPOSITORY = "team/small"
TOKEN = "hf_thisIsTheTokenOfTheTest"


@pytest.fixture
def hub(place: Place) -> Iterator[Hub]:
    with Hub() as hub:
        hub.add_repository(REPOSITORY, place.source)
        yield hub


@pytest.fixture
def of_hub(place: Place, hub: Hub, tmp_path: Path) -> Place:
    """A place whose source is the repository."""
    source = {"repository": REPOSITORY, "endpoint": hub.endpoint, "token_file": str(tmp_path / "token")}
    place.settings |= {"sourcePath": None, "hubSource": source}
    return place


def pinned(place: Place, hub: Hub, **more: Any) -> dict[str, Any]:
    """What the operator gives to a serving worker: the commit in addition to the keys."""
    result = place.prepare(**more).result
    assert result is not None
    commit = hub.repository(REPOSITORY).main
    return {**returned(result.to_json()), "hubSource": {**place.settings["hubSource"], "commit": commit}, **more}


def answer(place: Place, config: dict[str, Any]) -> str:
    with place.started("serve", **config) as worker:
        worker.until_ready()
        return ask(worker)


@pytest.mark.parametrize(
    "way", [{}, {"strategy": "ShardOnLoad"}, {"seal": "Behind"}], ids=["ShardOnCompile", "ShardOnLoad", "Behind"]
)
def test_answers_are_those_of_the_folder(place: Place, of_hub: Place, hub: Hub, way: dict[str, Any]) -> None:
    of_folder = Place(place.root / "of-folder", place.source)
    expected = answer(of_folder, {**returned(of_folder.prepare().result.to_json())})  # type: ignore[union-attr]
    assert answer(of_hub, pinned(of_hub, hub, **way)) == expected != ""


def test_a_start_with_sealed_shards_asks_for_nothing(of_hub: Place, hub: Hub) -> None:
    config = pinned(of_hub, hub)
    hub.requests.clear()
    first = answer(of_hub, config)
    assert not list(hub.requests)
    hub.down()
    assert answer(of_hub, config) == first


def test_a_start_that_shards_reads_the_commit_that_was_prepared(of_hub: Place, hub: Hub, tmp_path: Path) -> None:
    config = pinned(of_hub, hub, strategy="ShardOnLoad")
    first = answer(of_hub, config)
    changed = tmp_path / "changed"
    changed.mkdir()
    write_chat_model(changed)
    edit_config(changed, rms_norm_eps=0.5)
    hub.add_revision(REPOSITORY, changed, "main")
    assert answer(of_hub, config) == first
    ended = of_hub.run("serve", **{**config, "hubSource": of_hub.settings["hubSource"]})
    assert (ended.code, ended.report.failure and ended.report.failure.reason) == (exits.SOURCE_CHANGED, "SourceChanged")


def test_a_copy_on_scratch_is_read_without_the_hub(of_hub: Place, hub: Hub) -> None:
    config = pinned(of_hub, hub, strategy="ShardOnLoad", scratchTier=True)
    copies = of_hub.root / "scratch/tier/source"
    with of_hub.started("serve", **config) as worker:
        worker.until_ready()
        first = ask(worker)
        worker.until(lambda: any(copies.glob("*/copy.json")))
    hub.down()
    with of_hub.started("serve", **config) as worker:
        worker.until_ready()
        assert (ask(worker), worker.status().tier) == (first, "Scratch")


def test_a_copy_on_scratch_is_compared_with_what_the_hub_lists(of_hub: Place, hub: Hub) -> None:
    config = pinned(of_hub, hub, strategy="ShardOnLoad", scratchTier=True)
    copies = of_hub.root / "scratch/tier/source"
    with of_hub.started("serve", **config) as worker:
        worker.until_ready()
        worker.until(lambda: any(copies.glob("*/verified.json")))
        assert not worker.status().notes
    copied = next(copies.glob("*/model.safetensors"))
    flip(copied, copied.stat().st_size - 9)
    with of_hub.started("serve", **config) as worker:
        worker.until_ready()
        worker.until(lambda: worker.status().notes)
        (note,) = worker.status().notes
        assert worker.status().tier == "Scratch"
    assert note.reason == "ScratchTierDamaged"
    assert "model.safetensors in it is not what the source lists. What this worker has loaded may be" in note.message
    assert not list(copies.iterdir())


def test_the_same_files_have_one_key_wherever_they_are(of_hub: Place, hub: Hub) -> None:
    first = of_hub.prepare().result
    hub.add_repository("other/name", of_hub.source)
    elsewhere = {**of_hub.settings["hubSource"], "repository": "other/name"}
    second = of_hub.prepare(hubSource=elsewhere).result
    assert first
    assert second
    assert second.cache == "Hit"
    assert (first.source_content, first.shards_key) == (second.source_content, second.shards_key)


def test_a_claim_whose_tensors_were_compared_has_the_key_of_the_hub(of_hub: Place) -> None:
    first = of_hub.prepare().result
    of_claim = of_hub.prepare(hubSource=None, sourcePath=str(of_hub.source)).result
    assert first
    assert of_claim
    assert (of_claim.cache, of_claim.shards_key) == ("Hit", first.shards_key)


def test_a_claim_that_records_the_digests_of_the_hub_has_its_key(of_hub: Place) -> None:
    record(of_hub.source / "model.safetensors", sha256(of_hub.source / "model.safetensors"))
    of_claim = of_hub.prepare(hubSource=None, sourcePath=str(of_hub.source)).result
    second = of_hub.prepare().result
    assert of_claim
    assert second
    assert (second.cache, second.shards_key) == ("Hit", of_claim.shards_key)


def test_a_second_name_of_what_may_be_the_same_is_told_with_what_would_tell(of_hub: Place) -> None:
    of_claim = {"hubSource": None, "sourcePath": str(of_hub.source), "uid": "uid-2"}
    first = of_hub.prepare(**of_claim).result
    second = of_hub.prepare().result
    assert first
    assert second
    assert second.shards_key != first.shards_key
    assert "its content is named by the digests that the repository lists" in (second.missed or "")
    assert "the content of the weights differs" not in (second.missed or "")
    os.utime(of_hub.source / "model.safetensors", (1e9, 1e9))
    compared = of_hub.prepare(**of_claim).result
    assert compared
    assert (compared.cache, compared.shards_key) == ("Hit", second.shards_key)


def test_other_weights_of_a_repository_just_differ(of_hub: Place, hub: Hub, tmp_path: Path) -> None:
    of_hub.prepare()
    changed = tmp_path / "changed"
    changed.mkdir()
    write_chat_model(changed, seed=7)
    hub.add_revision(REPOSITORY, changed, "main")
    second = of_hub.prepare().result
    assert second
    assert "source: the content of the weights differs" in (second.missed or "")


def test_prepare_without_the_hub_takes_the_commit_of_before(
    of_hub: Place, hub: Hub, caplog: pytest.LogCaptureFixture
) -> None:
    first = of_hub.prepare().result
    hub.down()
    ended = of_hub.run("prepare")
    assert "is taken for the commit that it was at before" in caplog.text
    assert ended.report.result
    assert first
    assert ended.report.result.cache == "Hit"
    assert ended.report.result.source == first.source, "with the time at which the server said so"
    assert [note.reason for note in ended.report.notes] == ["SourceUnreachable"]


def test_prepare_that_needs_the_hub_fails_plainly_and_succeeds_later(of_hub: Place, hub: Hub) -> None:
    hub.down()
    ended = of_hub.run("prepare")
    assert ended.code == exits.TRANSIENT
    assert ended.report.failure
    assert ended.report.failure.reason == "SourceUnreachable"
    assert "cannot be reached" in ended.report.failure.message
    hub.up()
    assert of_hub.prepare().result


def test_a_gated_repository_is_opened_when_access_was_granted(of_hub: Place, hub: Hub, tmp_path: Path) -> None:
    hub.repository(REPOSITORY).gated = "manual"
    hub.add_token(TOKEN, "ada")
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    ended = of_hub.run("prepare")
    assert ended.report.failure
    assert f"ask for access at {hub.endpoint}/{REPOSITORY}" in ended.report.failure.message
    hub.repository(REPOSITORY).grants.add("ada")
    ended = of_hub.run("prepare")
    assert ended.code == 0
    assert not hub.requests.leaks


def test_a_secret_that_is_missing_is_named(of_hub: Place, hub: Hub, tmp_path: Path) -> None:
    hub.repository(REPOSITORY).private = True
    ended = of_hub.run("prepare")
    assert ended.report.failure
    assert ended.report.failure.reason == "RepositoryNotFound"
    assert ended.report.failure.message.endswith("the Secret of tokenSecretRef is missing, or has no such key.")
    (tmp_path / "token").write_text("hf_ofSomebodyElse")
    ended = of_hub.run("prepare")
    assert ended.report.failure
    assert "tokenSecretRef is missing" not in ended.report.failure.message


def test_a_token_that_was_rotated_is_taken_up_and_shown_nowhere(of_hub: Place, hub: Hub, tmp_path: Path) -> None:
    hub.repository(REPOSITORY).private = True
    hub.add_token(TOKEN, "team")
    (tmp_path / "token").write_text(TOKEN)
    config = pinned(of_hub, hub, strategy="ShardOnLoad")
    hub.revoke(TOKEN)
    ended = of_hub.run("serve", **config)
    assert ended.report.failure
    assert "does not accept the token" in ended.report.failure.message
    hub.add_token(f"{TOKEN}2", "team")
    (tmp_path / "token").write_text(f"{TOKEN}2")
    with of_hub.started("serve", **config) as worker:
        worker.until_ready()
        shown = worker.admin("/status").text + worker.admin("/metrics").text
    kept = "".join(path.read_text(errors="replace") for path in of_hub.artifacts.rglob("*.json"))
    for secret in (TOKEN, "Signature=", "X-Amz-"):
        assert secret not in ended.stderr + ended.report.to_json().__repr__() + shown + kept
    assert not hub.requests.leaks


def test_the_result_has_the_commit_and_what_it_is_of(of_hub: Place, hub: Hub) -> None:
    ended = of_hub.run("prepare")
    assert ended.report.result
    source, traffic = ended.report.result.source, ended.report.source_traffic
    weights = (of_hub.source / "model.safetensors").stat().st_size
    assert source
    assert (source.revision, source.files, source.bytes) == (hub.repository(REPOSITORY).main, 1, weights)
    assert traffic
    assert traffic.bytes >= weights
    assert traffic.requests == len(list(hub.requests)), "each is counted, and no other"
    assert traffic.bytes_per_second


def test_an_attempt_reads_the_commit_that_an_earlier_one_resolved(of_hub: Place, hub: Hub, tmp_path: Path) -> None:
    first = of_hub.prepare().result
    assert first
    assert first.source
    changed = tmp_path / "changed"
    changed.mkdir()
    write_chat_model(changed)
    edit_config(changed, rms_norm_eps=0.5)
    hub.add_revision(REPOSITORY, changed, "main")
    pin = {"commit": first.source.revision, "resolvedAt": first.source.resolved_at.isoformat()}
    second = of_hub.prepare(hubSource={**of_hub.settings["hubSource"], **pin}).result
    assert second
    assert (second.source, second.cache) == (first.source, "Hit")


def test_a_damaged_snapshot_is_read_again(of_hub: Place, hub: Hub) -> None:
    config = pinned(of_hub, hub)
    first = answer(of_hub, config)
    tokenizer = next((of_hub.artifacts / "hub").rglob("files/config.json"))
    tokenizer.write_bytes(tokenizer.read_bytes()[:-20])
    assert answer(of_hub, config) == first


def test_prepare_that_was_killed_leaves_ranks_that_are_not_fetched_again(of_hub: Place, hub: Hub) -> None:
    with of_hub.started("prepare", before=NOTHING_IS_SEALED) as worker:
        worker.until(lambda: len(list((of_hub.artifacts / "staging").glob("shards-*/weights/tp*.safetensors"))) == 3)
    hub.requests.clear()
    result = of_hub.prepare().result
    assert result
    assert " of 3 rank files were there already" in (result.missed or "")
    fetched = sum(request.bytes_sent for request in delivered(hub))
    assert fetched < (of_hub.source / "model.safetensors").stat().st_size * 0.7


@pytest.mark.parametrize(
    "source",
    [{"repository": ".."}, {"repository": "a/b/c"}, {"endpoint": "https://user:sesame@hub"}, {"revision": "a..b"}],
    ids=lambda source: next(iter(source)),
)
def test_what_names_no_repository_is_refused(of_hub: Place, source: dict[str, str]) -> None:
    ended = of_hub.run("prepare", hubSource={**of_hub.settings["hubSource"], **source})
    assert ended.code == exits.BAD_INPUT
    assert "sesame" not in ended.stderr
