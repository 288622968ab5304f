"""A model from a bucket: prepared from S3, and started again without it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from neuronmodel_api import exits
from tests.standins.s3 import S3
from tests.standins.s3.access import Key
from tests.unit.worker.engines.models import write_chat_model
from tests.unit.worker.scratch_cache.test_start import flip
from tests.unit.worker.sources.buckets import BUCKET, PREFIX, ranges_of, source_of, write_keys
from tests.unit.worker.test_cli import NOTHING_IS_SEALED, ask
from tests.unit.worker.workers import Place, returned

ON_LOAD = {"strategy": "ShardOnLoad"}


@pytest.fixture
def s3(place: Place) -> Iterator[S3]:
    with S3() as s3:
        s3.add_bucket(BUCKET, place.source, PREFIX)
        yield s3


@pytest.fixture
def key(s3: S3) -> Key:
    return s3.add_temporary_key()


@pytest.fixture
def of_s3(place: Place, s3: S3, key: Key, tmp_path: Path) -> Place:
    """A place whose source is the bucket."""
    place.settings |= {"sourcePath": None, "s3Source": source_of(s3, write_keys(key, tmp_path / "keys"))}
    return place


def pinned(place: Place, **more: Any) -> dict[str, Any]:
    """What the operator gives to a serving worker: the state in addition to the keys."""
    result = place.prepare(**more).result
    assert result
    assert result.source
    state = {**place.settings["s3Source"], "revision": result.source.revision}
    return {**more, **returned(result.to_json()), "s3Source": state}


def answer(place: Place, config: dict[str, Any]) -> str:
    with place.started("serve", **config) as worker:
        worker.until_ready()
        return ask(worker)


def replace(s3: S3, tmp_path: Path, seed: int = 7) -> None:
    """Puts other weights in the place of the model's."""
    changed = tmp_path / f"changed-{seed}"
    changed.mkdir()
    write_chat_model(changed, seed=seed)
    s3.bucket(BUCKET).put(f"{PREFIX}model.safetensors", changed / "model.safetensors")


@pytest.mark.parametrize("way", [{}, ON_LOAD, {"seal": "Behind"}], ids=["ShardOnCompile", "ShardOnLoad", "Behind"])
def test_answers_are_those_of_the_folder(place: Place, of_s3: Place, way: dict[str, Any]) -> None:
    of_folder = Place(place.root / "of-folder", place.source)
    expected = answer(of_folder, {**returned(of_folder.prepare().result.to_json())})  # type: ignore[union-attr]
    assert answer(of_s3, pinned(of_s3, **way)) == expected != ""


def test_a_start_with_sealed_shards_asks_for_nothing_and_needs_no_keys(of_s3: Place, s3: S3, tmp_path: Path) -> None:
    config = pinned(of_s3)
    s3.requests.clear()
    s3.down()
    for file in (tmp_path / "keys").iterdir():
        file.unlink()
    with of_s3.started("serve", **config) as worker:
        worker.until_ready()
        assert (worker.status().tier, worker.status().notes) == ("Artifacts", ())
    assert not list(s3.requests)


def test_a_state_that_is_gone_is_prepared_anew(of_s3: Place, s3: S3, tmp_path: Path) -> None:
    config = pinned(of_s3, **ON_LOAD)
    replace(s3, tmp_path)
    ended = of_s3.run("serve", **config)
    assert (ended.code, ended.report.failure and ended.report.failure.reason) == (exits.SOURCE_CHANGED, "SourceChanged")
    of_s3.settings["strategy"] = "ShardOnCompile"
    ended = of_s3.run("prepare", s3Source=config["s3Source"])
    assert (ended.code, ended.report.failure and ended.report.failure.reason) == (exits.SOURCE_CHANGED, "SourceChanged")
    again = pinned(of_s3, **ON_LOAD)  # the operator drops the pin
    assert again["s3Source"]["revision"] != config["s3Source"]["revision"]
    with of_s3.started("serve", **again) as worker:
        worker.until_ready()


def test_a_state_that_a_bucket_s_versions_keep_is_prepared_again(of_s3: Place, s3: S3, tmp_path: Path) -> None:
    s3.bucket(BUCKET).versioned = True
    s3.bucket(BUCKET).add_folder(of_s3.source, PREFIX)
    first = of_s3.prepare().result
    assert first
    assert first.source
    replace(s3, tmp_path)
    pin = {"revision": first.source.revision, "resolvedAt": first.source.resolved_at.isoformat()}
    second = of_s3.prepare(s3Source={**of_s3.settings["s3Source"], **pin}).result
    assert second
    assert (second.source, second.cache) == (first.source, "Hit")
    config = pinned(of_s3, **ON_LOAD, s3Source={**of_s3.settings["s3Source"], **pin})
    assert config["s3Source"]["revision"] == first.source.revision
    with of_s3.started("serve", **config) as worker:
        worker.until_ready()


def test_a_worker_takes_no_other_state_than_the_prepared_one(of_s3: Place, s3: S3, tmp_path: Path) -> None:
    config = pinned(of_s3)
    replace(s3, tmp_path)
    for kept in (of_s3.artifacts / "s3").rglob("snapshot.json"):
        kept.unlink()
    ended = of_s3.run("serve", **config)
    assert ended.code == exits.SOURCE_CHANGED
    assert ended.report.failure
    assert "its objects are not those that were listed before" in ended.report.failure.message


def test_a_copy_on_scratch_is_read_without_the_bucket(of_s3: Place, s3: S3) -> None:
    config = pinned(of_s3, scratchTier=True, **ON_LOAD)
    copies = of_s3.root / "scratch/tier/source"
    with of_s3.started("serve", **config) as worker:
        worker.until_ready()
        first = ask(worker)
        worker.until(lambda: any(copies.glob("*/copy.json")))
    s3.down()
    with of_s3.started("serve", **config) as worker:
        worker.until_ready()
        assert (ask(worker), worker.status().tier) == (first, "Scratch")


def test_content_is_recognized_wherever_it_is(of_s3: Place, s3: S3) -> None:
    first = of_s3.prepare().result
    s3.add_bucket("others", of_s3.source, PREFIX, etags="multipart")
    s3.requests.clear()
    elsewhere = {**of_s3.settings["s3Source"], "uri": f"s3://others/{PREFIX}"}
    second = of_s3.prepare(s3Source=elsewhere).result
    of_claim = of_s3.prepare(s3Source=None, sourcePath=str(of_s3.source)).result
    assert first
    assert second
    assert of_claim
    assert (second.cache, second.shards_key) == ("Hit", first.shards_key)
    assert (of_claim.cache, of_claim.shards_key) == ("Hit", first.shards_key)
    s3.requests.clear()
    again = of_s3.prepare(s3Source=elsewhere).result
    assert again
    assert again.cache == "Hit"
    assert not s3.requests.matching(operation="get"), "what was compared is known by its state"


def test_other_weights_just_differ(of_s3: Place, s3: S3, tmp_path: Path) -> None:
    of_s3.prepare()
    replace(s3, tmp_path)
    second = of_s3.prepare().result
    assert second
    assert "source: the content of the tensor" in (second.missed or "")


def test_prepare_without_the_server_takes_the_state_of_before(of_s3: Place, s3: S3) -> None:
    first = of_s3.prepare().result
    s3.down()
    ended = of_s3.run("prepare")
    assert ended.report.result
    assert first
    assert ended.report.result.cache == "Hit"
    assert ended.report.result.source == first.source, "with the time at which it was listed"
    assert [note.reason for note in ended.report.notes] == ["SourceUnreachable"]


def test_prepare_that_needs_the_server_fails_plainly_and_succeeds_later(of_s3: Place, s3: S3) -> None:
    s3.down()
    ended = of_s3.run("prepare")
    assert ended.code == exits.TRANSIENT
    assert ended.report.failure
    assert ended.report.failure.reason == "SourceUnreachable"
    s3.up()
    assert of_s3.prepare().result


def test_a_secret_that_is_missing_is_named(of_s3: Place, tmp_path: Path) -> None:
    (tmp_path / "keys/accessKeyIdFile").unlink()
    ended = of_s3.run("prepare")
    assert ended.report.failure
    assert ended.report.failure.reason == "SourceUnauthorized"
    assert "The Secret of credentialsSecretRef has no accessKeyIdFile" in ended.report.failure.message


def test_keys_that_were_rotated_are_taken_up_and_shown_nowhere(of_s3: Place, s3: S3, key: Key, tmp_path: Path) -> None:
    config = pinned(of_s3, **ON_LOAD)
    s3.access.expire(key.id)
    ended = of_s3.run("serve", **config)
    assert ended.report.failure
    assert "ExpiredToken" in ended.report.failure.message
    rotated = s3.add_temporary_key()
    write_keys(rotated, tmp_path / "keys")
    with of_s3.started("serve", **config) as worker:
        worker.until_ready()
        shown = worker.admin("/status").text + worker.admin("/metrics").text
    kept = "".join(path.read_text(errors="replace") for path in of_s3.artifacts.rglob("*.json"))
    for secret in (key.secret, key.token, rotated.secret, rotated.token):
        assert secret
        assert secret not in ended.stderr + repr(ended.report.to_json()) + shown + kept


def test_the_result_has_the_state_and_what_it_is_of(of_s3: Place, s3: S3) -> None:
    ended = of_s3.run("prepare")
    assert ended.report.result
    source, traffic = ended.report.result.source, ended.report.source_traffic
    weights = (of_s3.source / "model.safetensors").stat().st_size
    assert source
    assert (len(source.revision), source.files, source.bytes) == (64, 1, weights)
    assert traffic
    assert traffic.bytes >= weights
    assert traffic.requests == len(list(s3.requests)), "each is counted, and no other"
    assert traffic.bytes_per_second


def test_auto_measures_the_rate_of_the_network(of_s3: Place, s3: S3) -> None:
    result = of_s3.prepare(strategy="Auto").result
    assert result
    assert result.choice
    assert len(ranges_of(s3)) > 1


def test_prepare_that_was_killed_leaves_ranks_that_are_not_fetched_again(of_s3: Place, s3: S3) -> None:
    with of_s3.started("prepare", before=NOTHING_IS_SEALED) as worker:
        worker.until(lambda: len(list((of_s3.artifacts / "staging").glob("shards-*/weights/tp*.safetensors"))) == 3)
    s3.requests.clear()
    result = of_s3.prepare().result
    assert result
    assert " of 3 rank files were there already" in (result.missed or "")
    fetched = sum(request.bytes_sent for request in s3.requests.matching(operation="get"))
    assert fetched < (of_s3.source / "model.safetensors").stat().st_size * 0.7


def test_a_damaged_copy_on_scratch_is_seen_where_all_is_verified(of_s3: Place) -> None:
    config = pinned(of_s3, scratchTier=True, **ON_LOAD)
    copies = of_s3.root / "scratch/tier/source"
    with of_s3.started("serve", **config) as worker:
        worker.until_ready()
        worker.until(lambda: any(copies.glob("*/copy.json")))
    copied = next(copies.glob("*/model.safetensors"))
    flip(copied, copied.stat().st_size - 9)
    with of_s3.started("serve", **{**config, "verification": "Full"}) as worker:
        worker.until_ready()
        assert worker.status().tier == "Source"


@pytest.mark.parametrize("uri", ["models", "s3://user:sesame@models", "s3://models/a//b"])
def test_what_names_no_bucket_is_refused(of_s3: Place, uri: str) -> None:
    ended = of_s3.run("prepare", s3Source={**of_s3.settings["s3Source"], "uri": uri})
    assert ended.code == exits.BAD_INPUT
    assert "sesame" not in ended.stderr
