"""The kinds of sources on a network: each is in every place that has to know it."""

import json
import re
from typing import Any

import pytest
import yaml
from pydantic.alias_generators import to_camel

from neuronmodel_api import names
from neuronmodel_api.config import ADDED_FIELDS, WorkerConfig
from neuronmodel_api.sources import NETWORK_SOURCES, NetworkSource, NetworkSourceConfig
from neuronmodel_api.spec import Source
from neuronmodel_operator.decide.keys_in_use import serving_workload
from neuronmodel_worker.sources.network import KINDS
from tests.crd import hand_written, walk
from tests.paths import PROJECT

CHART = PROJECT / "charts" / "neuronmodel"
GIVEN: dict[str, dict[str, Any]] = {
    "huggingFace": {
        "repository": "org/name",
        "endpoint": "https://hub.example.com",
        "tokenSecretRef": {"name": "token", "key": "key"},
        "caBundle": {"configMapKeyRef": {"name": "ca", "key": "ca.crt"}},
    },
    "s3": {
        "uri": "s3://models/llama",
        "endpoint": "https://s3.example.com",
        "credentialsSecretRef": {"name": "keys", "sessionTokenKey": "session"},
        "caBundle": {"configMapKeyRef": {"name": "ca", "key": "ca.crt"}},
    },
}
"""A source of each kind that is read with all that it can be read with."""


def spec_of(kind: type[NetworkSource]) -> NetworkSource:
    found = Source.model_validate({kind.member(): GIVEN[kind.member()]}).on_network
    assert isinstance(found, kind)
    return found


def test_every_member_that_is_read_over_a_network_is_a_kind() -> None:
    members = {name for name in Source.model_fields if name not in ("persistent_volume_claim", "host_path")}
    assert members == {kind.FIELD for kind in NETWORK_SOURCES}
    assert {kind.member() for kind in NETWORK_SOURCES} == GIVEN.keys()
    defined = dict(walk(hand_written()))["spec.model.source"]["properties"]
    assert {kind.member() for kind in NETWORK_SOURCES} <= defined.keys()


@pytest.mark.parametrize("kind", NETWORK_SOURCES)
def test_a_worker_is_told_of_it_in_a_field_of_its_own(kind: type[NetworkSource]) -> None:
    config = spec_of(kind).config("0" * 40, None)
    given = WorkerConfig.model_validate(
        {"namespace": "n", "name": "n", "uid": "u", "specHash": "h", kind.CONFIG_FIELD: config}
    )
    assert given.network_source == config
    assert given.with_network_source(config.unpinned).network_source == config.unpinned
    assert kind.CONFIG_FIELD in ADDED_FIELDS
    assert (config.pinned, config.unpinned.pinned) == ("0" * 40, None)
    assert type(config) is kind.CONFIG


@pytest.mark.parametrize("kind", NETWORK_SOURCES)
def test_the_revision_that_serves_is_in_use(kind: type[NetworkSource]) -> None:
    config = {to_camel(kind.CONFIG_FIELD): spec_of(kind).config("0" * 40, None).to_json()}
    container = {"name": names.CONTAINER, "env": [{"name": names.ENV_CONFIG, "value": json.dumps(config)}]}
    assert serving_workload({"metadata": {}, "spec": {"containers": [container]}}).keys == ("0" * 40,)


@pytest.mark.parametrize("kind", NETWORK_SOURCES)
def test_what_it_is_read_with_makes_it_no_other_source(kind: type[NetworkSource]) -> None:
    source = spec_of(kind)
    assert type(source).model_fields.keys() >= source.RIGHTS
    without = source.model_copy(update=dict.fromkeys(source.RIGHTS))
    assert without.identity == source.identity
    assert without.address == source.address
    assert without.model_copy(update={"endpoint": "https://elsewhere.example.com"}).identity != source.identity


@pytest.mark.parametrize("kind", NETWORK_SOURCES)
def test_every_file_that_is_mounted_is_read(kind: type[NetworkSource]) -> None:
    source = spec_of(kind)
    told = source.config(None, None).model_dump()
    files = {value for name, value in told.items() if name.endswith("_file")}
    assert source.secret_files is not None
    assert source.secret_files.keys.keys() < files
    assert len(files - source.secret_files.keys.keys()) == 1, "the certificates"
    assert None not in files


@pytest.mark.parametrize("kind", NETWORK_SOURCES)
def test_nothing_secret_is_shown(kind: type[NetworkSource]) -> None:
    source = spec_of(kind)
    for text in (source.address, source.display, source.served_at("0" * 40)):
        assert "token" not in text
        assert "keys" not in text


def test_the_worker_opens_every_kind() -> None:
    told = {type(spec_of(kind).config(None, None)) for kind in NETWORK_SOURCES}
    assert {kind.config for kind in KINDS} == told == set(NetworkSourceConfig.__subclasses__())
    addresses = [spec_of(kind).address for kind in NETWORK_SOURCES]
    for kind in KINDS:
        assert sum(address.startswith(kind.address.SCHEME) for address in addresses) == 1


def test_the_chart_has_values_and_variables_of_every_kind() -> None:
    template = (CHART / "templates" / "_names.tpl").read_text()
    listed = re.search(r'define "neuronmodel.networkSources" -}}\n(.*?){{- end }}', template, re.DOTALL)
    assert listed is not None
    assert yaml.safe_load(listed[1]) == {kind.member(): kind.SETTINGS for kind in NETWORK_SOURCES}
    allowed = json.loads((CHART / "values.schema.json").read_text())["properties"]["sources"]["properties"]
    assert {kind.member() for kind in NETWORK_SOURCES} <= allowed.keys()
    values = yaml.safe_load((CHART / "values.yaml").read_text())["sources"]
    assert {name for name, value in values.items() if isinstance(value, dict) and "endpoints" in value} == {
        kind.member() for kind in NETWORK_SOURCES
    }
