"""A repository as the source: pinned by prepare, resolved again when that is asked for, served without its server."""

from dataclasses import replace

import pytest

from neuronmodel_api import exits, names
from neuronmodel_api.conditions import ConditionType
from neuronmodel_api.config import Strategy
from neuronmodel_api.report import Note, Report, SourceTraffic
from neuronmodel_api.sources import HuggingFace
from neuronmodel_api.status import SourceTransfer, WaitsFor
from neuronmodel_operator.manifests import hashes
from tests.builders import neuron_model
from tests.unit.operator.simulated import SETTINGS, Cluster, Run, commit, config_of, failing, with_source

REPOSITORY = "org/model"
BASE = neuron_model("smol").on_cpu().with_source_repository(REPOSITORY).with_artifacts_claim("store")
UNREACHABLE = Note(reason="SourceUnreachable", message="hub.example cannot be reached: timed out. Check the egress.")
SOURCE = ConditionType.SOURCE_RESOLVED
UPDATE = ConditionType.UPDATE_AVAILABLE


@pytest.fixture
def cluster() -> Cluster:
    return Cluster.of(BASE.build(), ("store",))


def noted(cluster: Cluster, **fields: object) -> None:
    """What the worker that serves reports further."""
    for pod in cluster.serving:
        uid = pod["metadata"]["uid"]
        cluster.reports[uid] = cluster.reports[uid].model_copy(update=fields)


def served_commit(cluster: Cluster) -> str | None:
    source = config_of(cluster.serving[0]).hub_source
    return source.commit if source else None


def test_the_commit_of_prepare_is_in_status_and_in_the_worker(cluster: Cluster) -> None:
    cluster.run_until_ready()
    source = cluster.status.source
    assert source is not None
    assert (source.revision, source.files, source.bytes) == (commit(1), 2, 900_000)
    assert served_commit(cluster) == commit(1)
    assert cluster.reason(SOURCE) == ("True", "Resolved")
    assert f"repository {REPOSITORY}, revision main: llama" in cluster.condition(SOURCE).message
    assert commit(1) in cluster.condition(SOURCE).message


def test_a_revision_that_moves_is_told_and_taken_up_by_a_restart_alone(cluster: Cluster) -> None:
    cluster.run_until_ready()
    pod, jobs = cluster.serving[0]["metadata"]["uid"], set(cluster.jobs)
    cluster.revision = 2
    noted(cluster, latest_revision=commit(2))
    cluster.run(10)
    assert cluster.reason(UPDATE) == ("True", "NewRevision")
    assert commit(1) in cluster.condition(UPDATE).message
    assert commit(2) in cluster.condition(UPDATE).message
    assert [note.type for note in cluster.recorded_events if note.reason == "NewRevision"] == ["Normal"]
    assert [p["metadata"]["uid"] for p in cluster.serving] == [pod]
    assert set(cluster.jobs) == jobs
    cluster.annotate(names.ANNOTATION_RESTART, "1")
    cluster.run_until(lambda c: c.status.source is not None and c.status.source.revision == commit(2))
    cluster.run_until_ready()
    assert served_commit(cluster) == commit(2)
    assert cluster.reason(UPDATE) == ("False", "UpToDate")


def test_the_pin_holds_while_prepare_runs_again_for_other_reasons(cluster: Cluster) -> None:
    cluster.run_until_ready()
    cluster.revision = 2
    cluster.claims["store"]["metadata"]["uid"] = "uid-new"  # everything is to be built again on a new volume
    cluster.kill_pod(cluster.serving[0])
    cluster.serve = lambda config: failing("ArtifactsMissing", exits.ARTIFACT_DAMAGED)
    cluster.run_until(lambda c: len(c.status.starts) > 0 and c.reason(ConditionType.ARTIFACTS_READY)[0] != "True")
    cluster.serve = lambda config: Run()
    cluster.run_until_ready()
    assert max(job["metadata"]["annotations"][names.ANNOTATION_ATTEMPT] for job in cluster.live_jobs) > "1"
    assert served_commit(cluster) == commit(1)
    assert cluster.status.source is not None
    assert cluster.status.source.revision == commit(1)


def test_a_worker_that_serves_a_commit_is_never_asked_to_look(cluster: Cluster) -> None:
    pinned = Cluster.of(BASE.with_source_repository(REPOSITORY, revision=commit(7)).build(), ("store",))
    for each, expected in ((cluster, SETTINGS.sources[HuggingFace].check_seconds), (pinned, None)):
        each.run_until_ready()
        source = config_of(each.serving[0]).hub_source
        assert source is not None
        assert source.check_seconds == expected
    assert SETTINGS.sources[HuggingFace].check_seconds is not None


def test_a_restart_of_a_pinned_commit_prepares_nothing_again() -> None:
    cluster = Cluster.of(BASE.with_source_repository(REPOSITORY, revision=commit(7)).build(), ("store",))
    cluster.run_until_ready()
    jobs, pod = set(cluster.jobs), cluster.serving[0]["metadata"]["uid"]
    cluster.annotate(names.ANNOTATION_RESTART, "1")
    cluster.run(40)
    cluster.run_until_ready()
    assert set(cluster.jobs) == jobs
    assert cluster.serving[0]["metadata"]["uid"] != pod


def test_a_server_out_of_reach_that_nothing_needs_is_no_failure(cluster: Cluster) -> None:
    cluster.prepare = lambda config: Run(notes=(UNREACHABLE,))
    cluster.run_until_ready()
    assert cluster.reason(SOURCE) == ("Unknown", "SourceUnreachable")
    assert "cannot be reached" in cluster.condition(SOURCE).message
    assert "served all the same" in cluster.condition(SOURCE).message
    noted(cluster, latest_revision=commit(1))
    cluster.run(3)
    assert cluster.reason(SOURCE) == ("True", "Resolved")
    noted(cluster, notes=(UNREACHABLE,))
    cluster.run(3)
    assert cluster.reason(SOURCE) == ("Unknown", "SourceUnreachable")
    assert cluster.reason() == ("True", "Serving")


def test_while_it_starts_ready_says_what_is_under_way(cluster: Cluster) -> None:
    cluster.prepare = lambda config: Run(notes=(UNREACHABLE,))
    cluster.run_until(lambda c: c.status.condition(SOURCE) is not None and c.reason(SOURCE)[1] == "SourceUnreachable")
    assert cluster.reason()[1] != "SourceUnreachable"


def test_a_server_out_of_reach_that_prepare_needs_is_a_failure_that_mends_itself(cluster: Cluster) -> None:
    cluster.prepare = lambda config: failing("SourceUnreachable", exits.TRANSIENT)
    cluster.run_until(lambda c: c.reason() == ("False", "SourceUnreachable"), steps=20)
    assert cluster.reason(SOURCE) == ("False", "SourceUnreachable")
    cluster.prepare = lambda config: Run()
    cluster.run_until_ready()


@pytest.mark.parametrize("reason", ["SourceGated", "SourceUnauthorized", "RepositoryNotFound", "CertificateUntrusted"])
def test_what_a_server_refuses_is_tried_again_at_once_when_that_is_asked_for(cluster: Cluster, reason: str) -> None:
    cluster.prepare = lambda config: failing(reason)
    cluster.run_until(lambda c: c.reason(SOURCE) == ("False", reason), steps=20)
    cluster.prepare = lambda config: Run()
    cluster.annotate(names.ANNOTATION_RETRY, "1")
    cluster.run_until(lambda c: c.reason() == ("True", "Serving"), steps=20)


@pytest.mark.parametrize(
    ("endpoint", "allowed", "is_taken"),
    [
        (None, ("https://huggingface.co",), True),
        ("https://huggingface.co/", ("https://huggingface.co",), True),
        ("https://HuggingFace.co:443", ("https://huggingface.co",), True),
        ("https://huggingface.co.", ("https://huggingface.co",), True),
        (None, ("https://hub.example.com",), False),
        ("https://hub.example.com", ("https://huggingface.co",), False),
        ("https://hub.example.com:8443", ("https://hub.example.com",), False),
        ("https://hub.example.com/a", ("https://hub.example.com",), False),
        ("https://hub.example.com/a/", ("https://hub.example.com/a",), True),
        ("https://hub.example.com:99999", ("https://hub.example.com",), False),
        ("http://hub.example.com", ("http://hub.example.com",), False),
    ],
)
def test_an_endpoint_that_is_not_allowed_gets_no_pod(
    endpoint: str | None, allowed: tuple[str, ...], is_taken: bool
) -> None:
    named = {"endpoint": endpoint} if endpoint else {}
    cluster = Cluster.of(BASE.with_source_repository(REPOSITORY, **named).build(), ("store",))
    cluster.settings = with_source(HuggingFace, endpoints=allowed)
    if is_taken:
        cluster.run_until_ready()
        return
    cluster.run(10)
    assert cluster.reason() == cluster.reason(SOURCE) == ("False", "EndpointNotAllowed")
    assert (endpoint or "https://huggingface.co") in cluster.condition().message
    assert not cluster.jobs
    listed = with_source(HuggingFace, endpoints=(endpoint or "https://huggingface.co",))
    cluster.settings = replace(listed, allow_http=True)
    if "99999" not in (endpoint or ""):
        cluster.run_until_ready()


def test_an_endpoint_that_is_not_allowed_any_more_stops_no_worker(cluster: Cluster) -> None:
    cluster.run_until_ready()
    pod = cluster.serving[0]["metadata"]["uid"]
    cluster.settings = with_source(HuggingFace, endpoints=("https://hub.example.com",))
    cluster.run(10)
    assert cluster.reason(SOURCE) == ("False", "EndpointNotAllowed")
    assert [p["metadata"]["uid"] for p in cluster.serving] == [pod]


def test_another_token_or_authority_prepares_nothing_again_and_replaces_the_worker(cluster: Cluster) -> None:
    cluster.run_until_ready()
    jobs, pod = set(cluster.jobs), cluster.serving[0]["metadata"]["uid"]
    cluster.edit("model.source.huggingFace.tokenSecretRef", {"name": "other", "key": "token"})
    cluster.edit("model.source.huggingFace.caBundle", {"secretKeyRef": {"name": "ca", "key": "ca.crt"}})
    cluster.run_until_ready()
    assert set(cluster.jobs) == jobs
    assert cluster.serving[0]["metadata"]["uid"] != pod


def test_a_restart_is_in_no_hash_of_a_claim() -> None:
    spec = Cluster.of(neuron_model("smol").on_cpu().build()).observe().model.spec
    given = {hashes.inputs_hash(spec, Strategy.AUTO, "store", "", restart) for restart in ("", "1")}
    assert len(given) == 1


def test_what_was_read_of_the_network_is_in_the_start(cluster: Cluster) -> None:
    cluster.prepare = lambda config: Run(
        traffic=SourceTraffic(bytes=900, bytes_per_second=300, requests=5, retries=1, limited_milliseconds=70)
    )
    cluster.serve = lambda config: Run(traffic=SourceTraffic(bytes=10, bytes_per_second=5, requests=2))
    cluster.run_until_ready()
    cluster.run(3)
    assert cluster.status.starts[0].source == SourceTransfer(
        bytes=910, bytes_per_second=300, requests=7, retries=1, limited_milliseconds=70
    )


def test_a_wait_for_a_rate_limit_is_in_the_progress(cluster: Cluster) -> None:
    cluster.prepare = lambda config: Run(milliseconds=10**9)
    cluster.run(6)
    (uid,) = (pod["metadata"]["uid"] for pod in cluster.pods.values())
    cluster.reports[uid] = limited(cluster.reports[uid])
    cluster.run(3, seconds=31)
    (worker,) = cluster.status.workers
    assert worker.progress is not None
    assert worker.progress.waits_for is WaitsFor.RATE_LIMIT
    assert (worker.progress.bytes, worker.progress.total_bytes) == (450, 900)
    assert worker.progress.source is not None
    assert worker.progress.source.requests == 9
    assert cluster.status.progress == "SourceOpened 50%, rate-limited"


def test_a_server_that_is_tried_again_and_again_is_in_the_progress(cluster: Cluster) -> None:
    cluster.prepare = lambda config: Run(milliseconds=10**9)
    cluster.run(6)
    (uid,) = (pod["metadata"]["uid"] for pod in cluster.pods.values())

    def retrying(retries: int) -> SourceTraffic:
        return SourceTraffic(requests=9, retries=retries, is_failing=True)

    cluster.reports[uid] = cluster.reports[uid].model_copy(update={"source_traffic": retrying(1)})
    cluster.run(3, seconds=11)
    assert cluster.status.progress == "SourceOpened, retrying"
    written = cluster.log.count("status")
    for retries in range(2, 12):  # as often as it is looked
        cluster.reports[uid] = cluster.reports[uid].model_copy(update={"source_traffic": retrying(retries)})
        cluster.run(1, seconds=2)
    assert cluster.log.count("status") - written <= 1
    cluster.run(2, seconds=31)
    progress = cluster.status.workers[0].progress
    assert progress is not None
    assert progress.source is not None
    assert progress.source.retries == 11
    cluster.reports[uid] = cluster.reports[uid].model_copy(update={"source_traffic": SourceTraffic(requests=20)})
    cluster.run(3, seconds=11)
    assert cluster.status.progress == "SourceOpened"


def limited(report: Report) -> Report:
    assert report.progress is not None
    progress = report.progress.model_copy(update={"done": 450, "total": 900})
    traffic = SourceTraffic(bytes=450, requests=9, is_limited=True)
    return report.model_copy(update={"progress": progress, "source_traffic": traffic})


def test_a_volume_has_no_status_of_a_source() -> None:
    cluster = Cluster.of(neuron_model("smol").on_cpu().build())
    cluster.run_until_ready()
    assert cluster.status.source is None
    assert "source" not in cluster.model["status"]["starts"][0]


@pytest.mark.parametrize("lag", [0, 4])
def test_a_refusal_is_one_event_however_late_the_job_says_that_it_failed(cluster: Cluster, lag: int) -> None:
    cluster.job_lag = lag
    cluster.prepare = lambda config: failing("CertificateUntrusted")
    cluster.run(12)
    notes = [note for note in cluster.recorded_events if note.reason == "CertificateUntrusted"]
    assert [note.type for note in notes] == ["Warning"]
    assert notes[0].note.startswith(f"repository {REPOSITORY}, revision main: ")


@pytest.mark.parametrize(
    ("field", "value"),
    [("sharding.strategy", "ShardOnLoad"), ("parallelism.tensorParallelDegree", 2), ("compile.batchSize", 4)],
)
def test_the_pin_holds_when_something_else_of_the_spec_changes(cluster: Cluster, field: str, value: object) -> None:
    cluster.run_until_ready()
    jobs = set(cluster.jobs)
    cluster.revision = 2
    cluster.edit(field, value)
    cluster.run_until_ready()
    assert set(cluster.jobs) != jobs
    assert served_commit(cluster) == commit(1)
    assert cluster.status.source is not None
    assert cluster.status.source.revision == commit(1)


@pytest.mark.parametrize("edited", [{"revision": "v2"}, {"repository": "org/other"}])
def test_another_revision_or_repository_is_resolved(cluster: Cluster, edited: dict[str, str]) -> None:
    cluster.run_until_ready()
    cluster.revision = 2
    for field, value in edited.items():
        cluster.edit(f"model.source.huggingFace.{field}", value)
    cluster.run_until_ready()
    assert served_commit(cluster) == commit(2)


@pytest.mark.parametrize("endpoint", ["https://[1.2.3.4]", "https://[:.:]", "https://huggingface.co:0"])
def test_an_endpoint_that_is_no_url_is_not_allowed_and_no_error(endpoint: str) -> None:
    cluster = Cluster.of(BASE.with_source_repository(REPOSITORY, endpoint=endpoint).build(), ("store",))
    cluster.run(5)
    assert cluster.reason(SOURCE) == ("False", "EndpointNotAllowed")


@pytest.mark.parametrize("seconds", [None, 600])
def test_the_word_of_prepare_is_forgotten_when_it_is_old(cluster: Cluster, seconds: int | None) -> None:
    cluster.settings = with_source(HuggingFace, check_seconds=seconds)
    cluster.prepare = lambda config: Run(notes=(UNREACHABLE,))
    cluster.run_until_ready()
    assert cluster.reason(SOURCE) == ("Unknown", "SourceUnreachable")
    plan = cluster.plan()
    assert plan.wake_after is not None
    assert plan.wake_after.total_seconds() <= (seconds or 3600)
    cluster.step(3601)
    cluster.reconcile()
    assert cluster.reason(SOURCE) == ("True", "Resolved")


def test_what_is_known_of_the_revision_outlives_the_pod_that_asked(cluster: Cluster) -> None:
    cluster.prepare = lambda config: Run(notes=(UNREACHABLE,))
    cluster.run_until_ready()
    for number in (2, 2, 3):
        noted(cluster, latest_revision=commit(number))
        cluster.run(3)
        cluster.kill_pod(cluster.serving[0])
        cluster.run(10)
        cluster.run_until_ready()
        assert cluster.reason(SOURCE) == ("True", "Resolved"), "the old word of prepare does not come back"
        assert cluster.reason(UPDATE) == ("True", "NewRevision")
        assert commit(number) in cluster.condition(UPDATE).message
        assert cluster.status.source is not None
        assert cluster.status.source.latest_revision == commit(number)
    assert [note.reason for note in cluster.recorded_events].count("NewRevision") == 1
    cluster.revision = 3
    cluster.annotate(names.ANNOTATION_RESTART, "1")
    cluster.run_until(lambda c: c.status.source is not None and c.status.source.revision == commit(3))
    cluster.run_until_ready()
    assert cluster.reason(UPDATE) == ("False", "UpToDate")


def test_what_a_worker_notes_of_the_server_later_is_of_no_start_and_no_event(cluster: Cluster) -> None:
    cluster.run_until_ready()
    cluster.run(3)
    before = len(cluster.recorded_events)
    for seconds in (304, 280, 150):
        noted(cluster, notes=(Note(reason="SourceRateLimited", message=f"It asks to wait for {seconds} s more."),))
        cluster.run(2)
        assert cluster.reason(SOURCE) == ("Unknown", "SourceRateLimited")
    assert cluster.status.starts[0].notes == ()
    assert len(cluster.recorded_events) == before


def test_a_commit_that_is_served_is_kept_on_the_volume(cluster: Cluster) -> None:
    cluster.run_until_ready()
    cluster.edit("compile.batchSize", 4)
    cluster.run(3)
    configs = [config_of({"spec": job["spec"]["template"]["spec"]}) for job in cluster.live_jobs]
    assert any(commit(1) in config.keys_in_use for config in configs)
