"""Weights from buckets of the tests' own S3: with keys of every kind, replaced while they are read, out of reach; and
keys and tokens, which are shown to nobody.

One story, told by four fixtures: models are `applied`, what is in the way is put right and they are `served`, some have
to start `without_s3`, and it has `returned`.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pytest

from neuronmodel_api.conditions import ConditionType
from neuronmodel_api.report import Stage
from neuronmodel_api.status import Cause, WorkerProgress
from tests.standins.faulty_http import Rule
from tests.standins.s3 import S3, Grant, Key, Record

from . import outages
from .accounting import phases
from .buckets import ENDPOINT, HOST, Served, as_pod_identity, as_role, from_bucket, give_key, s3_for
from .disclosure import PLACES, Disclosed, files_holding
from .network_source import FEW_POSITIONS, LARGE_SIZE, LAST_TENSOR, RANKS, WEIGHTS, Scene, tensor_range
from .room import Room
from .scenarios import event_reasons
from .waiting import eventually

VERSIONED, PLAIN, PAID, PUBLIC, ABROAD = "team-versions", "team-plain", "paid", "public", "abroad"
"""Buckets."""
KEPT, BEHIND, LARGE = (f"s3://{VERSIONED}/{name}" for name in ("kept", "behind", "large"))
SLICED, PAID_FOR, CHANGED = f"s3://{PLAIN}/sliced", f"s3://{PAID}/large", f"s3://{PUBLIC}/changed"
LATER: Final = "-later"
"""Behind the name of a checkpoint, what its weights are replaced by."""
REGION: Final = "eu-central-1"
"""Of ABROAD; NeuronModels name none, which is another one."""
STATE: Final = re.compile(r"[0-9a-f]{64}")
WRONG: Final = "sesame-" + "wrong" * 6
LIFETIME_SECONDS: Final = 20.0
BYTES_PER_SECOND: Final = 1_000_000
"""So that 57 MB take a minute, three lifetimes of a key."""
BROKEN_OFF_AFTER: Final = 3_000_000
NUM_BROKEN_OFF: Final = 2 * RANKS
"""A rank's rows of the last tensor are brought by three requests, one after the other, each signed anew."""
SIGNED: Final = ("Signature=", "AWS4-HMAC")
ELSEWHERE: Final = f"https://elsewhere.{HOST}"
WRONG_AND_SAID: Final[dict[str, tuple[str, tuple[str, ...]]]] = {
    "sliced": ("SourceUnauthorized", (PLAIN, HOST, "SignatureDoesNotMatch")),
    "expired": ("SourceUnauthorized", (VERSIONED, HOST, "ExpiredToken")),
    "nowhere": ("SourceNotFound", ("nowhere", HOST)),
    "astray": ("SourceNotFound", (KEPT[:-1], "kept/")),
    "abroad": ("RegionWrong", (ABROAD, "us-east-1", REGION)),
    "untrusting": ("CertificateUntrusted", (HOST,)),
    "elsewhere": ("EndpointNotAllowed", (ELSEWHERE, ENDPOINT)),
}
"""By NeuronModel, the reason and words of its message: what was wrong, where, what to do."""


@dataclass(kw_only=True)
class S3Scene(Scene):
    server: S3
    served: Served
    key: Key
    """That may read all, and is in Secrets."""
    stalled: dict[str, list[Rule]] = field(default_factory=dict)
    """By URI."""
    before_the_kill: list[Record] = field(default_factory=list)
    """Requests for the weights that `killed` reads."""
    progress_before_the_kill: WorkerProgress | None = None
    first_state: str = ""
    """Of KEPT."""

    def folder(self, uri: str) -> Path:
        """On this machine, the checkpoint that is put there at first."""
        return self.room.folder / _name(uri)

    def later(self, uri: str) -> Path:
        """What it is replaced by."""
        return self.room.folder / f"{_name(uri)}{LATER}"

    def add(self, uri: str, *, seed: int, **options: Any) -> None:
        if not self.folder(uri).exists():
            self.room.tiny(_name(uri), seed=seed, **options)
        self.server.bucket(_bucket(uri)).add_folder(self.folder(uri), f"{_name(uri)}/")

    def add_later(self, *uris: str) -> None:
        for seed, uri in enumerate(uris, start=20):
            self.room.tiny(self.later(uri).name, seed=seed)

    def apply(self, name: str, uri: str, **options: Any) -> None:
        self.apply_manifest(from_bucket(name, uri, **options))

    def stall(self, uri: str, *, last_rank: bool) -> None:
        self.stalled[uri] = self.stall_weights(self.folder(uri) / WEIGHTS, last_rank=last_rank, **_for_weights(uri))

    def is_stalled(self, uri: str) -> bool:
        return any(rule.num_used for rule in self.stalled[uri])

    def go_on(self, uri: str) -> None:
        for rule in self.stalled.pop(uri):
            self.server.faults.remove(rule.number)

    def slow_down(self, uri: str) -> None:
        """All weights come slowly, and each rank's rows of the last tensor are broken off twice."""
        first, _ = tensor_range(self.folder(uri) / WEIGHTS, LAST_TENSOR)
        self.server.faults.add(**_for_weights(uri), bytes_per_second=BYTES_PER_SECOND)
        self.server.faults.add(
            **_for_weights(uri), first_byte=first, count=NUM_BROKEN_OFF, cut_after_bytes=BROKEN_OFF_AFTER
        )

    def replace_in_the_middle(self, uri: str) -> None:
        """Once the last tensor is asked for, which breaks off and has to be asked for again."""
        first, _ = tensor_range(self.folder(uri) / WEIGHTS, LAST_TENSOR)
        replaced = {"replace_after_bytes": 1, "replace_with": self.later(uri) / WEIGHTS}
        self.server.faults.add(**_for_weights(uri), first_byte=first, count=1, cut_after_bytes=1, **replaced)

    def replace(self, uri: str) -> None:
        self.server.bucket(_bucket(uri)).put(f"{_name(uri)}/{WEIGHTS}", self.later(uri) / WEIGHTS)

    def deliveries(self, uri: str) -> list[Record]:
        """Requests for weights that were not refused."""
        return self.server.requests.matching(method="GET", status=206, path=_for_weights(uri)["path"])


def _bucket(uri: str) -> str:
    return uri.split("/")[2]


def _name(uri: str) -> str:
    return uri.split("/")[3]


def _for_weights(uri: str) -> dict[str, Any]:
    return {"origin": "s3", "operation": "get", "path": f"{uri.removeprefix('s3:/')}/{WEIGHTS}"}


@pytest.fixture(scope="module")
def applied(room: Room, tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Scene]:
    with s3_for(room, tmp_path_factory.mktemp("authority")) as served:
        s3 = served.s3
        s3.add_bucket(VERSIONED, versioned=True)
        s3.add_bucket(PLAIN)
        s3.add_bucket(PAID, requester_pays=True)
        s3.add_bucket(PUBLIC, public=Grant())
        s3.add_bucket(ABROAD, region=REGION)
        scene = S3Scene(room=room, server=s3, disclosed=Disclosed(room), served=served, key=s3.add_key())
        _give_keys(scene)
        _apply_what_is_right(scene)
        _apply_what_is_wrong(scene)
        yield scene


def _give_keys(scene: S3Scene) -> None:
    """`wrong` has a key's secret wrong, and `expired` is over."""
    s3, expired = scene.server, scene.server.add_temporary_key()
    s3.access.expire(expired.id)
    give_key(scene.room, "right", scene.key)
    give_key(scene.room, "wrong", Key(scene.key.id, WRONG))
    give_key(scene.room, "expired", expired)
    s3.pod_identity.lifetime_seconds = LIFETIME_SECONDS


def _apply_what_is_right(scene: S3Scene) -> None:
    for seed, uri in enumerate((KEPT, BEHIND, SLICED, CHANGED)):
        scene.add(uri, seed=seed)
    for uri in (PAID_FOR, LARGE):
        scene.add(uri, seed=5, **LARGE_SIZE)
    scene.add_later(KEPT, SLICED, CHANGED)
    scene.stall(PAID_FOR, last_rank=True)
    scene.stall(BEHIND, last_rank=False)
    scene.slow_down(LARGE)
    scene.replace_in_the_middle(CHANGED)
    scene.replace_in_the_middle(SLICED)
    scene.apply("identity", LARGE, strategy=None, **as_pod_identity(**FEW_POSITIONS))
    scene.apply("kept", KEPT, secret="right")
    scene.apply("killed", PAID_FOR, secret="right", source={"requesterPays": True}, **FEW_POSITIONS)
    scene.apply("behind", BEHIND, **as_role(sharding={"seal": "Behind"}))
    scene.apply("changed", CHANGED, source={"anonymous": True})
    scene.apply("sliced", SLICED, secret="wrong", strategy="ShardOnLoad")


def _apply_what_is_wrong(scene: S3Scene) -> None:
    """Beside `sliced`, which is put right later."""
    scene.apply("expired", KEPT, secret="expired", has_token=True)
    scene.apply("nowhere", "s3://nowhere/kept", secret="right")
    scene.apply("astray", KEPT[:-1], secret="right")
    scene.apply("abroad", f"s3://{ABROAD}/kept", secret="right")
    scene.apply("untrusting", KEPT, secret="right", trusts=False)
    scene.apply("elsewhere", KEPT, secret="right", endpoint=ELSEWHERE)


@pytest.fixture(scope="module")
def served(applied: S3Scene) -> S3Scene:
    """What was wrong was put right, two pods were killed that had most of their weights, and objects were replaced."""
    scene = applied
    scene.wait_for_reasons({name: reason for name, (reason, _) in WRONG_AND_SAID.items()})
    scene.disclosed.look()
    for name in WRONG_AND_SAID.keys() - {"sliced", "elsewhere"}:
        scene.models[name].delete()
    give_key(scene.room, "wrong", scene.key)
    scene.models["sliced"].retry()
    scene.wait_for_reasons({"changed": "SourceChanged"})
    scene.models["changed"].retry()
    scene.progress_before_the_kill = scene.kill_preparation_of_the_last_rank("killed")
    scene.before_the_kill = scene.deliveries(PAID_FOR)
    scene.go_on(PAID_FOR)
    scene.models["killed"].retry()
    behind = scene.models["behind"]
    eventually(
        lambda: scene.is_stalled(BEHIND) and outages.kill(behind.serving_pods()),
        what="a worker to kill",
        instead=behind.story,
    )
    scene.go_on(BEHIND)
    scene.wait_for_starts("kept")
    scene.replace(KEPT)
    scene.wait_for_starts("killed", "behind", "changed", "sliced", "identity")
    eventually(lambda: behind.sealing == "Sealed", what="shards to be sealed", instead=behind.story)
    scene.wait_for_condition("kept", ConditionType.UPDATE_AVAILABLE, "True", "NewRevision")
    return scene


@pytest.fixture(scope="module")
def without_s3(served: S3Scene) -> S3Scene:
    """Pods are replaced while nothing answers, and the Secret is gone."""
    scene = served
    scene.first_state = scene.source("kept").revision
    scene.disclosed.look()
    scene.server.down()
    scene.room.cluster.delete("Secret", "right", scene.room.namespace)
    for name in ("kept", "behind"):
        scene.delete_pod(name)
    scene.wait_for_starts("kept", "behind")
    scene.disclosed.look()
    return scene


@pytest.fixture(scope="module")
def returned(without_s3: S3Scene) -> S3Scene:
    """The state that was found in the bucket is asked for."""
    scene = without_s3
    scene.server.up()
    give_key(scene.room, "right", scene.key)
    scene.models["kept"].annotate(restart="1")
    scene.wait_for_starts("kept")
    return scene


def test_what_a_bucket_has_is_served_and_its_state_reported(served: S3Scene) -> None:
    nbytes = (served.folder(KEPT) / WEIGHTS).stat().st_size
    source, first = served.source("kept"), served.starts["kept"][0]
    assert STATE.fullmatch(source.revision)
    assert (source.files, source.bytes) == (1, nbytes)
    assert first.started_at <= source.resolved_at
    assert first.source is not None
    assert nbytes <= first.source.bytes < 1.1 * nbytes, "each byte is read once"
    assert served.answers_as("kept", served.folder(KEPT))


@pytest.mark.parametrize("name", WRONG_AND_SAID)
def test_what_is_wrong_is_told_with_what_helps(served: S3Scene, name: str) -> None:
    reason, words = WRONG_AND_SAID[name]
    message = served.said[name, reason].message
    missing = [word for word in words if word not in message]
    assert not missing, f"the message lacks {missing}: {message}"


def test_no_pod_is_made_for_an_endpoint_that_is_not_allowed(served: S3Scene) -> None:
    model = served.models["elsewhere"]
    assert not model.children("Pod")
    assert not model.prepare_jobs()


@pytest.mark.parametrize(("name", "uri"), [("sliced", SLICED), ("changed", CHANGED)])
def test_what_is_replaced_while_it_is_read_is_read_again_and_no_answer_mixes_both(
    served: S3Scene, name: str, uri: str
) -> None:
    assert "SourceChanged" in event_reasons(served.models[name])
    assert served.answers_as(name, served.later(uri))
    ready = served.models[name].condition(ConditionType.READY)
    assert ready is not None
    assert ready.status == "True"


def test_a_start_that_slices_what_it_loads_does_so_from_the_bucket(served: S3Scene) -> None:
    start = served.starts["sliced"][0]
    assert (start.strategy, start.tier) == ("ShardOnLoad", "Source")


def test_what_is_replaced_later_is_reported_and_not_taken_up_by_itself(served: S3Scene) -> None:
    source, message = served.source("kept"), served.said["kept", "NewRevision"].message
    assert source.latest_revision
    assert source.latest_revision != source.revision
    assert source.revision in message
    assert source.latest_revision in message
    finished = served.models["kept"].finished_start()
    assert finished is not None
    assert finished.id == served.starts["kept"][0].id, "nothing was restarted"


def test_keys_that_live_for_seconds_are_renewed_as_long_as_a_run_lasts(served: S3Scene) -> None:
    first, _ = tensor_range(served.folder(LARGE) / WEIGHTS, LAST_TENSOR)
    ends = [
        key.expires
        for record in served.deliveries(LARGE)
        if _first_byte(record) >= first and (key := served.server.access.get(record.key_id or "")) and key.expires
    ]
    assert len(ends) > NUM_BROKEN_OFF
    assert max(ends) - LIFETIME_SECONDS > min(ends), "the first had expired when the last was given"
    assert not served.server.requests.matching(path=_for_weights(LARGE)["path"], error="ExpiredToken")
    assert served.answers_as("identity", served.folder(LARGE))
    assert served.models["identity"].status.strategy is not None


def test_preparation_that_was_killed_goes_on_with_the_ranks_that_were_not_whole(served: S3Scene) -> None:
    model, start = served.models["killed"], served.starts["killed"][0]
    assert {phase.attempt for phase in start.phases if phase.stage == Stage.PREPARE} == {1, 2}
    artifacts = model.status.artifacts
    assert artifacts is not None
    nbytes, progress = (served.folder(PAID_FOR) / WEIGHTS).stat().st_size, served.progress_before_the_kill
    assert progress is not None
    assert progress.source is not None
    assert (progress.stage, progress.phase) == (Stage.PREPARE, "Sharded")
    assert 0 < progress.source.bytes <= nbytes
    assert f"{RANKS - 1} of {RANKS} rank files were there already" in (artifacts.missed or "")
    afterwards = served.deliveries(PAID_FOR)[len(served.before_the_kill) :]
    assert sum(record.bytes_sent for record in afterwards) < 0.7 * nbytes
    assert all(record.pays for record in afterwards)
    assert served.answers_as("killed", served.folder(PAID_FOR))


def test_a_worker_that_was_killed_while_it_loaded_seals_behind_all_the_same(served: S3Scene) -> None:
    start = served.starts["behind"][0]
    assert (start.cause, start.tier) == (Cause.CONTAINER_RESTARTED, "Source")
    assert served.answers_as("behind", served.folder(BEHIND))


def test_a_start_with_sealed_shards_needs_neither_the_server_nor_keys(without_s3: S3Scene) -> None:
    for name, uri in (("kept", KEPT), ("behind", BEHIND)):
        start = without_s3.starts[name][-1]
        assert (start.cause, start.tier, start.source) == (Cause.POD_REPLACED, "Artifacts", None), "it asked nothing"
        assert not {"Compiled", "Sharded"} & set(phases(start))
        assert without_s3.answers_as(name, without_s3.folder(uri))
        resolved = without_s3.models[name].condition(ConditionType.SOURCE_RESOLVED)
        assert resolved is not None
        assert resolved.status == "True" or (resolved.status, resolved.reason) == ("Unknown", "SourceUnreachable")


def test_a_restart_that_is_asked_for_takes_up_what_the_bucket_has_now(returned: S3Scene) -> None:
    former, source = returned.first_state, returned.source("kept")
    assert STATE.fullmatch(source.revision)
    assert source.revision != former
    artifacts = returned.models["kept"].status.artifacts
    assert artifacts is not None
    assert artifacts.compiled_cache == "Hit"
    assert returned.answers_as("kept", returned.later(KEPT))
    returned.models["kept"].wait_for_condition(ConditionType.UPDATE_AVAILABLE, "False", reason="UpToDate")


def test_no_key_and_no_token_is_shown_or_kept_anywhere(returned: S3Scene) -> None:
    disclosed, secrets = returned.disclosed, {WRONG, *returned.served.secrets(), *SIGNED}
    disclosed.look()
    state = returned.source("kept").revision
    found = {place.partition(" ")[0] for shown in (state, VERSIONED) for place in disclosed.holding(shown)}
    assert found == set(PLACES), "it was looked at"
    assert files_holding(returned.volumes(), state)
    assert all(tokens.accepted for tokens in returned.served.tokens), "pods showed who they are"
    for secret in secrets:
        assert not disclosed.holding(secret)
    assert not files_holding(returned.volumes(), *secrets)


def _first_byte(record: Record) -> int:
    found = re.fullmatch(r"bytes=(\d+)-\d*", record.range or "")
    return int(found[1]) if found else -1
