"""However often the operator is killed between two writes, it ends where the spec asks."""

import itertools
import random
from collections.abc import Callable
from datetime import timedelta

import pytest

from neuronmodel_api import exits, names
from neuronmodel_api.config import Seal, Strategy, WorkerConfig
from neuronmodel_api.status import Cause, Outcome
from tests.builders import neuron_model
from tests.unit.operator.simulated import Cluster, OperatorKilledError, Run, config_of, failing, job_uid, template_hash

Edit = Callable[[Cluster], None]


def made(**behaviour: object) -> Cluster:
    cluster = Cluster.of(neuron_model("smol").on_cpu().with_artifacts_claim("store").build(), ("models", "store"))
    for name, value in behaviour.items():
        setattr(cluster, name, value)
    return cluster


def degree(value: int) -> Edit:
    return lambda cluster: cluster.edit("parallelism.tensorParallelDegree", value)


def image(value: str) -> Edit:
    return lambda cluster: cluster.edit("worker.image", value)


def suspend(value: bool) -> Edit:
    return lambda cluster: cluster.edit("suspend", value)


def replicas(value: int) -> Edit:
    return lambda cluster: cluster.edit("serving.replicas", value)


def strategy(value: str) -> Edit:
    return lambda cluster: cluster.edit("sharding.strategy", value)


def choice(value: Strategy) -> Edit:
    """Of Auto, whenever it is asked next."""
    return lambda cluster: setattr(cluster, "chooses", value)


def seal(value: str) -> Edit:
    return lambda cluster: cluster.edit("sharding.seal", value)


def scratch(value: dict[str, object]) -> Edit:
    return lambda cluster: cluster.edit("scratch", value)


def verification(value: str) -> Edit:
    return lambda cluster: cluster.edit("artifacts.verification", value)


def restart(value: str) -> Edit:
    return lambda cluster: cluster.annotate(names.ANNOTATION_RESTART, value)


def lose_pod(cluster: Cluster) -> None:
    for pod in cluster.pods.values():
        cluster.kill_pod(pod)


def lose_deployment(cluster: Cluster) -> None:
    if cluster.deployment:
        cluster.deployment = None
        lose_pod(cluster)


def lose_jobs(cluster: Cluster) -> None:
    """As `kubectl delete job` does."""
    for job in cluster.jobs.values():
        for pod in cluster.pods.values():
            if job_uid(pod) == job["metadata"]["uid"]:
                cluster.kill_pod(pod)
    cluster.jobs.clear()


def lose_claim(cluster: Cluster) -> None:
    """With everything that ran on it; its owner makes it again."""
    lose_pod(cluster)
    del cluster.claims["store"]
    cluster.reconcile()
    cluster.add_claim("store")


def crash_all(cluster: Cluster) -> None:
    for pod in cluster.pods.values():
        if pod["status"]["phase"] == "Running" and "running" in pod["status"]["containerStatuses"][0]["state"]:
            cluster.crash(pod)


def change_source(cluster: Cluster) -> None:
    cluster.revision += 1
    for pod in cluster.serving:
        if pod["status"]["phase"] == "Running" and "running" in pod["status"]["containerStatuses"][0]["state"]:
            cluster.crash(pod)


EDITS: dict[str, Edit] = {
    "degree 2": degree(2),
    "degree 4": degree(4),
    "image": image("mine:1"),
    "image back": image("worker-cpu:1"),
    "suspend": suspend(True),
    "resume": suspend(False),
    "to zero": replicas(0),
    "to one": replicas(1),
    "on load": strategy("ShardOnLoad"),
    "on compile": strategy("ShardOnCompile"),
    "auto": strategy("Auto"),
    "auto chooses shards": choice(Strategy.SHARD_ON_COMPILE),
    "auto chooses the source": choice(Strategy.SHARD_ON_LOAD),
    "behind": seal("Behind"),
    "before": seal("Before"),
    "a tier": scratch({"emptyDir": {"sizeLimit": "1Gi"}}),
    "no tier": scratch({}),
    "every byte": verification("Full"),
    "restart": restart("now"),
    "pod lost": lose_pod,
    "deployment lost": lose_deployment,
    "jobs lost": lose_jobs,
    "claim lost": lose_claim,
    "all crashed": crash_all,
    "source changed": change_source,
}


def turbulent(cluster: Cluster, random_: random.Random, passes: int) -> None:
    """Passes that may be killed before any of their writes."""
    for _ in range(passes):
        try:
            cluster.reconcile(writes=random_.choice([0, 1, 2, 3, 100, 100]))
        except OperatorKilledError:
            cluster.log.append("killed")
        if random_.random() < 0.7:
            cluster.step(random_.choice([0.3, 1.0, 2.5]))


def assert_as_asked(cluster: Cluster) -> None:
    spec = cluster.model["spec"]
    wanted = 0 if spec.get("suspend") else spec.get("serving", {}).get("replicas", 1)
    assert cluster.deployment is not None
    assert cluster.deployment["spec"]["replicas"] == wanted
    current = cluster.deployment["spec"]["template"]["metadata"]["annotations"][names.ANNOTATION_TEMPLATE_HASH]
    assert [template_hash(pod) for pod in cluster.serving] == [current] * wanted
    for pod in cluster.serving:
        config = config_of(pod)
        assert config.neuron_config["tp_degree"] == spec["parallelism"]["tensorParallelDegree"]
        assert_strategy_is_as_asked(cluster, config)
        assert config.scratch_tier is bool(spec.get("scratch"))
        assert config.verification == spec["artifacts"].get("verification", "Quick")
        assert config.source_fingerprint == f"fingerprint-/source-{cluster.revision}"
        assert pod["spec"]["containers"][0]["image"] == spec.get("worker", {}).get("image", "worker-cpu:1")


def assert_strategy_is_as_asked(cluster: Cluster, config: WorkerConfig) -> None:
    sharding = cluster.model["spec"].get("sharding", {})
    asked, in_force = sharding.get("strategy", "Auto"), cluster.status.strategy
    assert in_force is not None
    assert config.strategy is in_force.in_force is not Strategy.AUTO
    assert asked in ("Auto", config.strategy)
    assert (config.shards_key is not None) is (config.strategy is Strategy.SHARD_ON_COMPILE)
    behind = config.shards_key is not None and sharding.get("seal") == "Behind"
    assert (config.seal is Seal.BEHIND) is behind
    artifacts = cluster.status.artifacts
    assert artifacts is not None
    assert (artifacts.sealing, artifacts.shards_key) == ("Sealed" if behind else None, config.shards_key)


def assert_accounts_add_up(cluster: Cluster) -> None:
    for start in cluster.status.starts:
        assert start.phases or start.outcome is not Outcome.READY
        if start.total_milliseconds is not None:
            assert sum(phase.milliseconds for phase in start.phases) == start.total_milliseconds
        assert all(phase.milliseconds >= 0 for phase in start.phases)
    assert len(cluster.status.starts) <= 5
    begun = [start.started_at for start in cluster.status.starts]
    assert begun == sorted(begun, reverse=True)


def settle(cluster: Cluster) -> None:
    stopped = cluster.model["spec"].get("suspend") or cluster.model["spec"].get("serving", {}).get("replicas") == 0
    if stopped:
        cluster.run(60, seconds=10)
    else:
        cluster.run_until_ready()


@pytest.mark.parametrize("seed", range(24))
def test_any_sequence_of_changes_and_kills_ends_as_the_spec_asks(seed: int) -> None:
    random_ = random.Random(seed)
    cluster = made(job_lag=random_.choice([0, 0, 5]))
    turbulent(cluster, random_, random_.randint(0, 40))
    for _ in range(random_.randint(1, 5)):
        EDITS[random_.choice(sorted(EDITS))](cluster)
        turbulent(cluster, random_, random_.randint(0, 60))
    settle(cluster)
    if cluster.model["spec"].get("suspend") or cluster.model["spec"].get("serving", {}).get("replicas") == 0:
        suspend(False)(cluster)
        replicas(1)(cluster)
        settle(cluster)
    cluster.run(5)
    assert_as_asked(cluster)
    assert_accounts_add_up(cluster)
    written = len(cluster.log)
    cluster.run(20)
    assert len(cluster.log) == written, f"it does not come to rest: {cluster.log[written:]}"


@pytest.mark.parametrize("kill_at", range(12))
def test_a_start_that_was_killed_at_any_write_is_one_start_since_creation(kill_at: int) -> None:
    cluster = made()
    left = kill_at
    while not (cluster.deployment and cluster.serving):
        try:
            cluster.reconcile(writes=left)
        except OperatorKilledError:
            left = 100
        cluster.step()
    cluster.run_until_ready()
    (start,) = cluster.status.starts
    assert (start.cause, start.outcome) == (Cause.CREATED, Outcome.READY)
    assert_accounts_add_up(cluster)


def test_a_failing_prepare_is_tried_again_ever_more_rarely_and_recovers_by_itself() -> None:
    cluster = made(prepare=lambda config: failing("ConfigMissing"))
    made_at = []
    known: set[str] = set()
    for _ in range(400):
        cluster.reconcile()
        for name in cluster.jobs.keys() - known:
            made_at.append(cluster.now)
            known.add(name)
        cluster.step(10)
    waits = [(later - earlier) / timedelta(minutes=1) for earlier, later in itertools.pairwise(made_at)]
    # Between the making of two Jobs lies the time that the first of them ran for, too.
    assert len(waits) >= 5
    assert all(expected <= wait < expected + 1.2 for expected, wait in zip((1, 2, 4, 8, 16), waits, strict=False))
    assert cluster.reason() == ("False", "ConfigMissing")
    cluster.prepare = lambda config: Run(builds="Built.")
    cluster.run_until(lambda c: c.reason() == ("True", "Serving"), steps=300, seconds=10)
    assert_as_asked(cluster)
    assert_accounts_add_up(cluster)
    assert len(cluster.live_jobs) == 1


def test_a_retry_annotation_makes_prepare_run_at_once() -> None:
    cluster = made(prepare=lambda config: failing("ConfigMissing"))
    cluster.run_until(lambda c: c.reason() == ("False", "ConfigMissing"))
    cluster.prepare = lambda config: Run()
    cluster.annotate(names.ANNOTATION_RETRY, "1")
    cluster.reconcile()
    assert len(cluster.live_jobs) == 2
    cluster.run_until_ready(60)


def test_a_source_that_never_stops_changing_is_not_prepared_in_a_fast_loop() -> None:
    cluster = made(serve=lambda config: failing("SourceChanged", exits.SOURCE_CHANGED))
    cluster.run(300, seconds=2)  # ten minutes
    jobs = {line for line in cluster.log if line.startswith("create Job")}
    assert 3 <= len(jobs) <= 6
    cluster.serve = lambda config: Run()
    cluster.run_until(lambda c: c.reason() == ("True", "Serving"), steps=400, seconds=10)
    assert_accounts_add_up(cluster)
