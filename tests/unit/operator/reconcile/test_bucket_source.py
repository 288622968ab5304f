"""A bucket as the source: pinned at a state by prepare, prepared again when that state is gone, read by the right that
the spec names."""

from dataclasses import replace
from typing import Any

import pytest

from neuronmodel_api import exits, names
from neuronmodel_api.conditions import ConditionType
from neuronmodel_api.config import WorkerConfig
from neuronmodel_api.sources import S3, S3Source
from neuronmodel_operator.manifests import hashes
from tests.builders import neuron_model
from tests.unit.operator.simulated import SETTINGS, Cluster, Run, config_of, failing, state, with_source

URI = "s3://models/llama"
BASE = neuron_model("smol").on_cpu().with_source_bucket(URI).with_artifacts_claim("store")
SOURCE = ConditionType.SOURCE_RESOLVED
UPDATE = ConditionType.UPDATE_AVAILABLE
KEYS = {"name": "keys", "accessKeyIDKey": "id", "secretAccessKeyKey": "secret", "sessionTokenKey": "token"}


@pytest.fixture
def cluster() -> Cluster:
    return Cluster.of(BASE.build(), ("store",))


def with_bucket(**fields: Any) -> Cluster:
    return Cluster.of(BASE.with_source_bucket(URI, **fields).build(), ("store",))


def served(cluster: Cluster) -> S3Source:
    source = config_of(cluster.serving[0]).s3_source
    assert source is not None
    return source


def templates(cluster: Cluster) -> list[dict[str, Any]]:
    assert cluster.deployment is not None
    return [each["spec"]["template"]["spec"] for each in (*cluster.live_jobs, cluster.deployment)]


def variables(template: dict[str, Any]) -> dict[str, Any]:
    return {each["name"]: each.get("value") for each in template["containers"][0]["env"]}


def test_the_state_that_prepare_found_is_in_status_and_in_the_worker(cluster: Cluster) -> None:
    cluster.run_until_ready()
    assert cluster.status.source is not None
    assert cluster.status.source.revision == served(cluster).revision == state(1)
    assert cluster.condition(SOURCE).message == f"{URI}: llama, 900,000 bytes, at state {state(1)}."
    assert (served(cluster).region, served(cluster).endpoint, served(cluster).anonymous) == ("us-east-1", "", False)


def test_replaced_objects_are_announced_and_taken_up_by_a_restart_alone(cluster: Cluster) -> None:
    cluster.run_until_ready()
    assert served(cluster).check_seconds == SETTINGS.sources[S3].check_seconds
    pod, jobs = cluster.serving[0]["metadata"]["uid"], set(cluster.jobs)
    cluster.revision = 2
    cluster.reports[pod] = cluster.reports[pod].model_copy(update={"latest_revision": state(2)})
    cluster.run(10)
    assert cluster.reason(UPDATE) == ("True", "NewRevision")
    assert cluster.condition(UPDATE).message.startswith(
        f"{URI} is served at state {state(1)}, and what is in the bucket is at {state(2)} now."
    )
    assert set(cluster.jobs) == jobs
    cluster.annotate(names.ANNOTATION_RESTART, "1")
    cluster.run_until(lambda c: c.status.source is not None and c.status.source.revision == state(2))
    cluster.run_until_ready()
    assert served(cluster).revision == state(2)


@pytest.mark.parametrize("field", [("sharding.strategy", "ShardOnLoad"), ("compile.batchSize", 4)])
def test_the_pin_holds_when_something_else_of_the_spec_changes(cluster: Cluster, field: tuple[str, object]) -> None:
    cluster.run_until_ready()
    cluster.revision = 2
    jobs = set(cluster.jobs)
    cluster.edit(*field)
    cluster.run_until_ready()
    assert set(cluster.jobs) != jobs
    assert served(cluster).revision == state(1)


@pytest.mark.parametrize("strategy", ["ShardOnLoad", "ShardOnCompile"])
def test_a_state_that_is_gone_is_prepared_again_at_the_present_one(strategy: str) -> None:
    """Objects were replaced in a bucket without versions, and a worker needs what they had."""
    cluster = Cluster.of(BASE.with_strategy(strategy).build(), ("store",))
    cluster.run_until_ready()
    cluster.revision = 2
    cluster.serve = lambda config: changed(config, state(1))
    cluster.kill_pod(cluster.serving[0])
    cluster.run_until(lambda c: c.status.source is not None and c.status.source.revision == state(2))
    cluster.run_until_ready()
    assert served(cluster).revision == state(2)


def test_a_state_that_is_gone_when_prepare_reads_it_is_looked_for_no_longer(cluster: Cluster) -> None:
    cluster.run_until_ready()
    cluster.revision = 2
    cluster.prepare = lambda config: changed(config, state(1))
    cluster.edit("sharding.strategy", "ShardOnLoad")
    cluster.run_until(lambda c: c.reason() == ("False", "SourceChanged"))
    cluster.annotate(names.ANNOTATION_RETRY, "1")
    cluster.run_until(lambda c: c.status.source is not None and c.status.source.revision == state(2))
    cluster.run_until_ready()


def changed(config: WorkerConfig, gone: str) -> Run:
    source = config.s3_source
    assert source is not None
    return failing("SourceChanged", exits.SOURCE_CHANGED) if source.revision == gone else Run()


def test_keys_are_files_in_both_pods_and_missing_ones_keep_no_pod_from_starting() -> None:
    cluster = with_bucket(credentialsSecretRef=KEYS, caBundle={"configMapKeyRef": {"name": "ca", "key": "ca.crt"}})
    cluster.run_until_ready()
    for template in templates(cluster):
        (secrets,) = (each for each in template["volumes"] if "projected" in each)
        items = {item["path"]: item["key"] for each in secrets["projected"]["sources"] if "secret" in each
                 for item in each["secret"]["items"]}  # fmt: skip
        assert items == {
            "source-access-key-id": "id", "source-secret-access-key": "secret", "source-session-token": "token",
        }  # fmt: skip
        assert all(next(iter(each.values()))["optional"] for each in secrets["projected"]["sources"])
        assert template["containers"][0]["volumeMounts"][-1]["mountPath"] == names.SECRETS_MOUNT
    source = served(cluster)
    assert source.access_key_id_file == f"{names.SECRETS_MOUNT}/source-access-key-id"
    assert source.session_token_file == f"{names.SECRETS_MOUNT}/source-session-token"
    assert source.ca_file == names.SOURCE_CA_FILE


def test_the_keys_of_a_secret_have_the_names_of_the_variables_unless_they_are_named() -> None:
    cluster = with_bucket(credentialsSecretRef={"name": "keys"})
    cluster.run_until_ready()
    secret = templates(cluster)[0]["volumes"][-1]["projected"]["sources"][0]["secret"]
    assert [item["key"] for item in secret["items"]] == ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"]
    assert served(cluster).session_token_file is None


def test_both_pods_have_the_service_account_whose_identity_reads_the_bucket() -> None:
    cluster = Cluster.of(BASE.with_worker(serviceAccountName="reader").build(), ("store",))
    cluster.run_until_ready()
    assert [each["serviceAccountName"] for each in templates(cluster)] == ["reader", "reader"]
    assert not any("projected" in volume for each in templates(cluster) for volume in each["volumes"])
    assert served(cluster).access_key_id_file is None


def test_a_proxy_is_not_asked_for_the_pod_s_own_identity(cluster: Cluster) -> None:
    cluster.settings = replace(SETTINGS, proxy={"HTTPS_PROXY": "http://proxy:3128", "NO_PROXY": ".svc,169.254.169.254"})
    cluster.run_until_ready()
    for template in templates(cluster):
        found = variables(template)
        assert found["HTTPS_PROXY"] == "http://proxy:3128"
        assert found["NO_PROXY"].split(",") == [
            ".svc", "169.254.169.254", "169.254.170.23", "fd00:ec2::23", "fd00:ec2::254",
        ]  # fmt: skip


@pytest.mark.parametrize(
    ("endpoint", "allowed", "is_taken"),
    [
        (None, ("https://s3.amazonaws.com",), True),
        (None, ("https://s3.example.com",), False),
        ("https://s3.example.com", ("https://s3.amazonaws.com",), False),
        ("https://s3.example.com:443/", ("https://s3.amazonaws.com", "https://s3.example.com"), True),
        ("http://s3.example.com", ("http://s3.example.com",), False),
    ],
)
def test_an_endpoint_that_is_not_allowed_gets_no_pod(
    endpoint: str | None, allowed: tuple[str, ...], is_taken: bool
) -> None:
    cluster = with_bucket(**({"endpoint": endpoint} if endpoint else {}))
    cluster.settings = with_source(S3, endpoints=allowed)
    if is_taken:
        cluster.run_until_ready()
        return
    cluster.run(10)
    assert cluster.reason() == cluster.reason(SOURCE) == ("False", "EndpointNotAllowed")
    assert not cluster.jobs


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("region", "eu-central-1"),
        ("credentialsSecretRef", KEYS),
        ("requesterPays", True),
        ("anonymous", True),
        ("caBundle", {"secretKeyRef": {"name": "ca", "key": "ca.crt"}}),
    ],
)
def test_by_what_right_it_is_read_prepares_nothing_again_and_replaces_the_worker(
    cluster: Cluster, field: str, value: object
) -> None:
    cluster.run_until_ready()
    jobs, pod = set(cluster.jobs), cluster.serving[0]["metadata"]["uid"]
    cluster.edit(f"model.source.s3.{field}", value)
    cluster.run_until_ready()
    assert set(cluster.jobs) == jobs
    assert cluster.serving[0]["metadata"]["uid"] != pod


def test_another_bucket_or_server_is_resolved(cluster: Cluster) -> None:
    cluster.settings = with_source(S3, endpoints=("https://s3.amazonaws.com", "https://s3.example.com"))
    cluster.run_until_ready()
    for number, (field, value) in enumerate({"uri": "s3://models/other", "endpoint": "https://s3.example.com"}.items()):
        cluster.revision = number + 2
        cluster.edit(f"model.source.s3.{field}", value)
        cluster.run_until_ready()
        assert served(cluster).revision == state(number + 2)


def test_the_state_that_a_worker_serves_is_in_use(cluster: Cluster) -> None:
    cluster.run_until_ready()
    before = set(cluster.jobs)
    cluster.edit("compile.batchSize", 4)
    cluster.run_until(lambda c: bool(set(c.jobs) - before))
    (job,) = set(cluster.jobs) - before
    assert state(1) in config_of(cluster.jobs[job]["spec"]["template"]).keys_in_use


def test_a_wrong_region_is_tried_again_at_once_when_it_is_corrected(cluster: Cluster) -> None:
    cluster.prepare = lambda config: failing("RegionWrong")
    cluster.run_until(lambda c: c.reason(SOURCE) == ("False", "RegionWrong"), steps=20)
    cluster.prepare = lambda config: Run()
    cluster.edit("model.source.s3.region", "eu-central-1")
    cluster.run_until(lambda c: c.reason() == ("True", "Serving"), steps=30)


def test_hashes_of_other_sources_are_as_they_were() -> None:
    spec = Cluster.of(neuron_model("smol").on_cpu().build()).observe().model.spec
    assert hashes.source_hash(spec, "") is None
    assert "s3" not in spec.model_dump(mode="json", exclude_defaults=True)["model"]["source"]
