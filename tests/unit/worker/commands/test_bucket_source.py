"""`--model s3://…`: a bucket is planned and sharded as a folder is, with keys from where people have them."""

import json
from collections.abc import Iterator

import pytest

from neuronmodel_api import exits
from tests.standins.s3 import S3
from tests.unit.worker.commands.commands import Place, described
from tests.unit.worker.commands.test_model_source import of_hub
from tests.unit.worker.sources.hubs import wait_little

MODEL = "s3://models/small"


@pytest.fixture
def s3(place: Place, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3]:
    wait_little(monkeypatch)
    with S3() as s3:
        s3.add_bucket("models", place.model, "small/")
        key = s3.add_key()
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", s3.endpoint)
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", key.id)
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", key.secret)
        yield s3


def test_the_plan_is_that_of_the_folder_but_for_the_place(s3: S3, place: Place) -> None:
    document, of_folder = (
        json.loads(of_hub("plan", place, "--json", "--no-measure", model=model).out)
        for model in (MODEL, str(place.model))
    )
    assert document["tensors"] == of_folder["tensors"]
    assert document["model"] == "models/small"
    assert len(document["source"]["revision"]) == 64


def test_shards_are_those_of_the_folder(s3: S3, place: Place) -> None:
    place.sharded()
    expected = described(place.weights)
    for path in place.weights.iterdir():
        path.unlink()
    ended = of_hub("shard", place, model=MODEL)
    assert ended.code == 0, ended.err
    assert described(place.weights) == expected


def test_nothing_of_a_key_is_printed(s3: S3, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "sesame-sesame")
    ended = of_hub("load", place, model=MODEL)
    assert ended.code == exits.BAD_INPUT
    assert "does not accept the credentials: SignatureDoesNotMatch" in ended.sentence
    assert "sesame" not in ended.err + ended.out


def test_a_profile_and_an_endpoint_that_is_none_are_refused(
    s3: S3, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.setenv("AWS_PROFILE", "team")
    assert "profiles are not read" in of_hub("plan", place, model=MODEL).sentence
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "s3.example.com")
    ended = of_hub("plan", place, model=MODEL)
    assert ended.code == exits.USAGE
    assert "AWS_ENDPOINT_URL has to be a URL" in ended.sentence


def test_what_is_missing_is_named(s3: S3, place: Place) -> None:
    s3.bucket("models").delete("small/config.json")
    ended = of_hub("plan", place, model=MODEL)
    assert ended.code == exits.BAD_INPUT
    assert "models/small holds no config.json" in ended.sentence
