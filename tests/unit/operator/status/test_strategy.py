"""Auto: what `prepare` gets, what it chose, and when it is asked again; and shards that are sealed behind."""

import json
from contextlib import suppress
from datetime import timedelta
from itertools import pairwise

import pytest

from neuronmodel_api import exits, names
from neuronmodel_api.conditions import ConditionType
from neuronmodel_api.config import History, Seal, Strategy
from neuronmodel_api.report import Note, Sealing, SealingState
from neuronmodel_api.status import Outcome
from neuronmodel_operator.reconcile.reconcile import REPORT_WHILE_SEALING
from neuronmodel_operator.state.plan import REPORT_WHEN_READY
from tests.builders import NeuronModelBuilder, neuron_model
from tests.unit.operator.simulated import (
    Cluster,
    Object,
    OperatorKilledError,
    Run,
    choice_of,
    component,
    config_of,
    failing,
)

BASE = neuron_model("smol").on_cpu().with_artifacts_claim("store")
ON_COMPILE, ON_LOAD = Strategy.SHARD_ON_COMPILE, Strategy.SHARD_ON_LOAD


def made(builder: NeuronModelBuilder = BASE, **behaviour: object) -> Cluster:
    cluster = Cluster.of(builder.build(), ("models", "store"))
    for name, value in behaviour.items():
        setattr(cluster, name, value)
    return cluster


def serving(builder: NeuronModelBuilder = BASE, **behaviour: object) -> Cluster:
    cluster = made(builder, **behaviour)
    cluster.run_until_ready()
    return cluster


def jobs_made(cluster: Cluster) -> int:
    return len([line for line in cluster.log if line.startswith("create Job")])


def asked(cluster: Cluster) -> Object:
    """The instruction of the latest Job."""
    job = max(cluster.jobs.values(), key=lambda job: job["metadata"]["creationTimestamp"])
    return dict(config_of(job["spec"]["template"]).to_json())


def history(cluster: Cluster) -> History:
    return History.model_validate(asked(cluster)["history"])


def warnings(cluster: Cluster, reason: str) -> list[str]:
    return [note.note for note in cluster.recorded_events if (note.type, note.reason) == ("Warning", reason)]


def change_source(cluster: Cluster) -> None:
    cluster.revision += 1
    cluster.crash(cluster.serving[0])
    cluster.run(12)
    cluster.run_until_ready()


# Auto.


@pytest.mark.parametrize("chosen", [ON_COMPILE, ON_LOAD])
@pytest.mark.parametrize("builder", [BASE, BASE.with_strategy("Auto")], ids=["absent", "named"])
def test_what_prepare_chose_is_in_force_and_reported_with_its_figures(
    builder: NeuronModelBuilder, chosen: Strategy
) -> None:
    cluster = made(builder, chooses=chosen)
    cluster.run(2)
    before = cluster.status.strategy
    assert before is not None
    assert (before.in_force, before.reason) == (Strategy.AUTO, "NotChosenYet")
    assert asked(cluster)["strategy"] == "Auto"
    cluster.run_until_ready()
    (config,) = [config_of(pod) for pod in cluster.serving]
    assert (config.strategy, config.shards_key is not None) == (chosen, chosen is ON_COMPILE)
    assert config.history is None
    strategy, choice = cluster.status.strategy, choice_of(chosen)
    assert strategy is not None
    assert strategy.inputs is not None
    assert (strategy.in_force, strategy.reason, strategy.message) == (chosen, choice.reason, choice.message)
    assert strategy.inputs.model_dump().items() <= choice.model_dump().items()
    assert cluster.status.starts[0].strategy is chosen
    assert [note.note for note in cluster.recorded_events if note.reason == "StrategyChosen"] == [
        f"{chosen}: {choice.message}"
    ]


def test_a_first_prepare_has_no_history() -> None:
    cluster = made()
    cluster.reconcile()
    assert history(cluster) == History()


def test_a_named_strategy_needs_no_history() -> None:
    cluster = made(BASE.with_strategy("ShardOnLoad"))
    cluster.reconcile()
    assert "history" not in asked(cluster)


def test_what_starts_loaded_and_how_fast_is_passed_to_the_next_prepare() -> None:
    cluster = serving()
    cluster.kill_pod(cluster.serving[0])
    cluster.run(10)
    change_source(cluster)
    ready = [start for start in cluster.status.starts if start.outcome is Outcome.READY]
    rates = [phase.bytes_per_second for start in ready for phase in start.phases if phase.name == "Read"]
    cluster.edit("parallelism.tensorParallelDegree", 2)
    cluster.run(2)
    assert history(cluster) == History(
        former_strategy=ON_COMPILE, starts=len(ready) + 1, sources=2, read_bytes_per_second=next(filter(None, rates))
    ), "the start that this Job is for is on its way"


def test_the_start_that_is_prepared_for_counts_whether_it_was_recorded_before_its_job_was_made_or_not() -> None:
    """Killed after the former Job was deleted, before the status."""
    prompt, killed = serving(), serving()
    for cluster in (prompt, killed):
        cluster.edit("parallelism.tensorParallelDegree", 2)
    with suppress(OperatorKilledError):
        killed.reconcile(writes=1)
    assert killed.log[-1].startswith("delete Job")
    for cluster in (prompt, killed):
        cluster.run(2)
    assert history(prompt) == history(killed)


def test_the_rate_of_a_start_that_sharded_the_checkpoint_is_not_that_of_prepare() -> None:
    cluster = serving(chooses=ON_LOAD)
    cluster.edit("parallelism.tensorParallelDegree", 2)
    cluster.run(2)
    recorded = history(cluster)
    (start,) = [start for start in cluster.status.starts if start.outcome is Outcome.READY]
    (rate,) = [p.bytes_per_second for p in start.phases if (p.stage, p.name) == ("Serve", "Sharded")]
    assert (recorded.former_strategy, recorded.sharded_bytes_per_second) == (ON_LOAD, rate)
    assert recorded.read_bytes_per_second is None


def test_the_strategy_is_not_chosen_again_while_prepare_need_not_run() -> None:
    """Starts come and go, the figures change, and the worker is left alone."""
    cluster = serving()
    cluster.chooses = ON_LOAD
    for _ in range(3):
        cluster.crash(cluster.serving[0])
        cluster.run(12)
    cluster.kill_pod(cluster.serving[0])
    cluster.run_until_ready()
    cluster.run(20)
    assert jobs_made(cluster) == 1
    assert config_of(cluster.serving[0]).strategy is ON_COMPILE


def test_a_changed_source_lets_it_choose_again() -> None:
    cluster = serving()
    cluster.chooses = ON_LOAD
    change_source(cluster)
    assert jobs_made(cluster) == 2
    assert config_of(cluster.serving[0]).strategy is ON_LOAD
    contents = [start.source_content for start in cluster.status.starts if start.outcome is Outcome.READY]
    assert contents == ["content-/source-2", "content-/source-1"]


def test_a_job_that_waits_for_a_node_is_not_recreated_because_history_changed() -> None:
    """A worker of the former spec starts again meanwhile."""
    cluster = serving()
    cluster.can_schedule = lambda pod: "no node" if component(pod) == names.COMPONENT_PREPARE else None
    cluster.edit("parallelism.tensorParallelDegree", 2)
    cluster.run(5)
    (before,) = cluster.live_jobs
    cluster.kill_pod(cluster.serving[0])
    cluster.serving_workloads = (another("other", "store"),)
    cluster.run(20)
    (after,) = cluster.live_jobs
    assert after["metadata"]["uid"] == before["metadata"]["uid"]
    cluster.can_schedule = lambda pod: None
    cluster.run_until_ready()


# What one run of `prepare` gets.


def another(name: str, claim: str, keys: tuple[str, str | None] = ("c-other", "s-other")) -> Object:
    """The Deployment of another NeuronModel, as this operator makes it."""
    model = neuron_model(name).on_cpu().with_artifacts_claim(claim)
    cluster = Cluster.of(model.build(), ("models", claim))
    cluster.model["metadata"]["uid"] = f"uid-{name}"
    cluster.run_until_ready()
    assert cluster.deployment is not None
    (env,) = (
        item
        for item in cluster.deployment["spec"]["template"]["spec"]["containers"][0]["env"]
        if item["name"] == names.ENV_CONFIG
    )
    env["value"] = json.dumps(json.loads(env["value"]) | {"compiledKey": keys[0], "shardsKey": keys[1]})
    return cluster.deployment


def test_keys_of_whatever_serves_from_the_volume_are_spared() -> None:
    cluster = serving()
    (own,) = [config_of(pod) for pod in cluster.serving]
    cluster.serving_workloads = (another("other", "store"), another("elsewhere", "disk", ("c-disk", None)))
    cluster.edit("parallelism.tensorParallelDegree", 2)
    cluster.run(2)
    assert asked(cluster)["keysInUse"] == sorted(["c-other", "s-other", str(own.compiled_key), str(own.shards_key)])


def test_other_models_are_looked_up_only_where_a_job_may_be_created() -> None:
    cluster = made()
    looked_up: dict[str, bool] = {}
    for name in ("before", "while it prepares", "while it loads", "while it serves"):
        looked_up[name] = cluster.observe().serving_workloads is not None
        state = cluster.condition(ConditionType.ARTIFACTS_READY).status if cluster.model.get("status") else None
        if state is None:
            cluster.run(3)
        elif state == "Unknown":
            cluster.run_until(lambda c: c.reason(ConditionType.ARTIFACTS_READY)[0] == "True")
        else:
            cluster.run_until_ready()
    assert looked_up == {
        "before": True,
        "while it prepares": False,
        "while it loads": False,
        "while it serves": False,
    }
    cluster.edit("compile.batchSize", 2)
    assert cluster.observe().serving_workloads is not None


def test_a_job_that_a_look_did_not_expect_waits_for_the_next_look() -> None:
    cluster = serving()
    cluster.serve = lambda config: failing("ArtifactDamaged", exits.ARTIFACT_DAMAGED, "A byte differs.")
    cluster.crash(cluster.serving[0])
    cluster.run_until(
        lambda c: (
            "terminated" in c.serving[0]["status"]["containerStatuses"][0]["state"]
            and (c.reason(ConditionType.ARTIFACTS_READY) == ("Unknown", "ArtifactDamaged"))
        )
    )
    assert jobs_made(cluster) == 1
    cluster.reconcile()
    assert jobs_made(cluster) == 2


def test_a_clean_up_spares_the_others_and_not_its_own() -> None:
    cluster = serving(BASE.with_retention("Delete"))
    cluster.serving_workloads = (another("other", "store"),)
    cluster.delete_model()
    cluster.run_until(lambda c: any("cleanup" in name for name in c.jobs))
    (job,) = cluster.live_jobs
    assert config_of(job["spec"]["template"]).keys_in_use == ("c-other", "s-other")
    cluster.run(40)
    assert cluster.is_gone


def test_a_deployment_that_somebody_garbled_names_no_keys() -> None:
    cluster = made()
    broken = another("other", "store")
    broken["spec"]["template"]["spec"]["containers"][0]["env"] = [
        {"name": names.ENV_CONFIG, "value": value} for value in ("{", "[]", '{"compiledKey": 3}')
    ]
    cluster.serving_workloads = (broken, {"metadata": {"name": "x"}, "spec": {"template": {"spec": {}}}})
    cluster.run(2)
    assert "keysInUse" not in asked(cluster) or asked(cluster)["keysInUse"] == []


def test_after_damage_prepare_compares_every_byte_once() -> None:
    cluster = serving()
    found = ["Quick"]
    cluster.serve = lambda config: (
        failing("ArtifactDamaged", exits.ARTIFACT_DAMAGED, "A byte differs.") if jobs_made(cluster) < 2 else Run()
    )
    cluster.crash(cluster.serving[0])
    cluster.run_until(lambda c: jobs_made(c) == 2)
    found.append(str(asked(cluster).get("verification", "Quick")))
    cluster.run_until_ready()
    cluster.edit("parallelism.tensorParallelDegree", 2)
    cluster.run(2)
    found.append(str(asked(cluster).get("verification", "Quick")))
    assert found == ["Quick", "Full", "Quick"]


def test_a_source_that_changed_is_no_reason_to_compare_every_byte() -> None:
    cluster = serving()
    change_source(cluster)
    assert asked(cluster).get("verification", "Quick") == "Quick"


def test_full_verification_is_asked_of_everybody_who_starts() -> None:
    cluster = serving(BASE.with_field("spec.artifacts.verification", "Full"))
    assert asked(cluster)["verification"] == "Full"
    assert config_of(cluster.serving[0]).verification == "Full"


@pytest.mark.parametrize(
    ("built", "says"),
    [
        ("Shards were built.", "Shards were built. Shards s-1 were set aside."),
        ("Shards were built: Shards s-1 were set aside.", "Shards were built: Shards s-1 were set aside."),
    ],
)
def test_a_quarantined_set_is_reported_in_status_and_once_in_an_event(built: str, says: str) -> None:
    cluster = made(prepare=lambda config: Run(builds=built, quarantined=("Shards s-1 were set aside.",)))
    cluster.run_until_ready()
    cluster.run(30)
    assert warnings(cluster, "ArtifactQuarantined") == ["Shards s-1 were set aside."]
    artifacts = cluster.condition(ConditionType.ARTIFACTS_READY)
    assert artifacts.message == says


def test_a_full_volume_is_reported_in_the_worker_s_words_and_retried() -> None:
    message = "/artifacts has 3 GB of room and 9 GB are needed; shards s-1 (7 GB, of demo.old) could go."
    cluster = made(prepare=lambda config: failing("ArtifactsVolumeFull", exits.NO_SPACE, message))
    cluster.run_until(lambda c: c.reason() == ("False", "ArtifactsVolumeFull"))
    assert "claim store has 3 GB of room and 9 GB are needed; shards s-1 (7 GB, of demo.old)" in (
        cluster.condition(ConditionType.ARTIFACTS_READY).message
    )
    cluster.prepare = lambda config: Run()
    cluster.run(70)
    cluster.run_until_ready()


# The scratch volume.


@pytest.mark.parametrize(
    ("scratch", "tier", "limit"),
    [
        (None, False, None),
        ({"emptyDir": {}}, True, None),
        ({"emptyDir": {"sizeLimit": "1.5Gi"}}, True, 3 << 29),
        ({"persistentVolumeClaim": {"claimName": "nvme"}}, True, None),
    ],
)
def test_a_scratch_volume_that_the_spec_names_keeps_copies(scratch: object, tier: bool, limit: int | None) -> None:
    cluster = made(BASE.with_field("spec.scratch", scratch) if scratch else BASE)
    cluster.add_claim("nvme")
    cluster.run_until_ready()
    config = config_of(cluster.serving[0])
    assert (config.scratch_tier, config.scratch_limit_bytes) == (tier, limit)


def test_a_start_tells_from_where_it_loaded_what() -> None:
    cluster = serving()
    (start,) = cluster.status.starts
    assert (start.tier, start.source_content) == ("Artifacts", "content-/source-1")
    on_load = serving(chooses=ON_LOAD)
    assert on_load.status.starts[0].tier == "Source"


def test_what_a_worker_notes_is_in_its_start_and_once_in_an_event() -> None:
    note = Note(reason="ScratchCopyDamaged", message="A copy was damaged: its header differs. It was read again.")
    cluster = serving(serve=lambda config: Run(notes=(note,)))
    cluster.run(20)
    assert cluster.status.starts[0].notes == (f"{note.reason}: {note.message}",)
    assert warnings(cluster, note.reason) == [note.message]


def test_what_a_worker_notes_while_it_answers_reaches_its_start() -> None:
    cluster = serving()
    late = Note(reason="ScratchFull", message="There was no room for a copy.")
    uid = cluster.serving[0]["metadata"]["uid"]
    cluster.reports[uid] = cluster.reports[uid].model_copy(update={"notes": (late,)})
    cluster.run(20)
    assert cluster.status.starts[0].notes == (f"{late.reason}: {late.message}",)
    assert warnings(cluster, late.reason) == [late.message]
    written = len(cluster.log)
    cluster.run(20)
    assert cluster.log[written:] == []


# Sealing behind.

BEHIND = BASE.with_strategy("ShardOnCompile").with_seal("Behind")


def artifacts_mount(pod: Object) -> Object:
    (mount,) = (m for m in pod["spec"]["containers"][0]["volumeMounts"] if m["name"] == "artifacts")
    return mount  # type: ignore[no-any-return]


def test_a_worker_that_seals_behind_may_write_and_knows_the_key() -> None:
    cluster = serving(BEHIND)
    (pod,) = cluster.serving
    config = config_of(pod)
    assert (config.seal, config.shards_key is not None) == (Seal.BEHIND, True)
    assert "readOnly" not in artifacts_mount(pod)
    assert cluster.status.starts[0].tier == "Source"


@pytest.mark.parametrize("builder", [BASE, BASE.with_seal("Before"), BASE.with_seal("Behind")])
def test_who_does_not_seal_behind_only_reads(builder: NeuronModelBuilder) -> None:
    cluster = serving(builder, chooses=ON_LOAD)
    (pod,) = cluster.serving
    assert artifacts_mount(pod)["readOnly"] is True
    assert config_of(pod).seal is Seal.BEFORE


def test_auto_may_choose_shards_that_are_sealed_behind() -> None:
    cluster = serving(BASE.with_seal("Behind"))
    assert config_of(cluster.serving[0]).seal is Seal.BEHIND


def test_sealing_is_followed_closely_until_it_is_done() -> None:
    cluster = serving(BEHIND)
    seen: list[tuple[str | None, timedelta | None]] = []
    for _ in range(6):
        plan = cluster.reconcile()
        artifacts = cluster.status.artifacts
        seen.append((artifacts.sealing if artifacts else None, plan.report_interval))
        cluster.step()
    changes = [seen[0], *(now for before, now in pairwise(seen) if now != before)]
    assert changes == [
        ("Pending", REPORT_WHILE_SEALING),
        ("Writing", REPORT_WHILE_SEALING),
        ("Sealed", REPORT_WHEN_READY),
    ]
    assert [note.note for note in cluster.recorded_events if note.reason == "ShardsSealed"] == [
        "The worker wrote 2 bytes of shards in 1.0 s behind its answers; later starts read them."
    ]


def test_the_start_after_sealing_reads_what_was_sealed() -> None:
    cluster = serving(BEHIND)
    cluster.run(5)
    cluster.kill_pod(cluster.serving[0])
    cluster.run(10)
    assert [start.tier for start in cluster.status.starts] == ["Artifacts", "Source"]
    assert jobs_made(cluster) == 1
    artifacts = cluster.status.artifacts
    assert artifacts is not None
    assert artifacts.sealing == "Sealed"


def test_sealing_that_failed_is_reported_and_forgotten_by_the_next_start() -> None:
    cluster = serving(BEHIND)
    uid = cluster.serving[0]["metadata"]["uid"]
    failed = Sealing(state=SealingState.FAILED, message="There was no room.")
    cluster.reports[uid] = cluster.reports[uid].model_copy(update={"sealing": failed})
    cluster.run(5)
    assert cluster.status.artifacts is not None
    assert cluster.status.artifacts.sealing == "Failed"
    assert warnings(cluster, "SealingFailed") == ["There was no room."]
    cluster.kill_pod(cluster.serving[0])
    cluster.run(15)
    assert cluster.status.artifacts is not None
    assert cluster.status.artifacts.sealing == "Sealed"


def test_shards_in_the_memory_of_a_worker_that_is_gone_are_not_pending() -> None:
    cluster = serving(BEHIND)
    cluster.kill_pod(cluster.serving[0])
    cluster.step()
    cluster.serve = lambda config: Run(milliseconds=10**7)
    cluster.run(8)
    assert cluster.status.artifacts is not None
    assert cluster.status.artifacts.sealing is None
