"""Weights from a repository of the tests' own Hub: private, gated, out of reach, moved on; and its tokens, which are
shown to nobody.

One story, told by four fixtures: models are `applied`, what is in the way is put right and they are `served`, some have
to start `without_hub`, and it has `returned`.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pytest

from neuronmodel_api import names
from neuronmodel_api.conditions import ConditionType
from neuronmodel_api.report import Stage
from neuronmodel_api.status import Cause, WorkerProgress
from tests.levels import answers
from tests.standins.hub import Hub, Record

from . import outages
from .accounting import phases
from .capital import MODEL, PROMPT, SPEC
from .chat import completion
from .disclosure import PLACES, Disclosed, files_holding
from .hub import CDN_HOST, ENDPOINT, from_hub, give_token, hub_for
from .network_source import FEW_POSITIONS, LARGE_SIZE, RANKS, WEIGHTS, Scene
from .neuronmodels import Applied
from .room import Room
from .scenarios import event_reasons
from .waiting import eventually

PLANTED: Final = "hf_" + "Planted" * 5
"""As the Hub's tokens are. The others have no form by which they could be recognized."""
WRONG, FORMER, ROTATED, OF_ADA = (f"sesame-{word * 6}" for word in ("wrong", "former", "rotated", "ada"))
SECRETS: Final = (PLANTED, WRONG, FORMER, ROTATED, OF_ADA)
SIGNED: Final = ("Signature=", "Key-Pair-Id=")
"""In URLs that give files to whoever has them."""

PRIVATE, LARGE, BEHIND, SMALL, GATED = (f"team/{name}" for name in ("capital", "large", "behind", "small", "gated"))
MOVED: Final = "moved"
"""The folder of what GATED has later."""


@dataclass
class HubScene(Scene):
    server: Hub
    before_the_kill: list[Record] = field(default_factory=list)
    """Requests for the weights of LARGE."""
    progress_before_the_kill: WorkerProgress | None = None

    def folder(self, repository: str) -> Path:
        """On this machine, what its first commit has."""
        return self.room.models / MODEL if repository == PRIVATE else self.room.folder / repository

    def add(self, repository: str, **options: Any) -> None:
        if repository != PRIVATE:
            self.room.tiny(repository, **options)
        self.server.add_repository(repository, self.folder(repository), private=repository == PRIVATE)

    def apply(self, name: str, repository: str, **options: Any) -> None:
        self.apply_manifest(from_hub(name, repository, **options))

    def stall(self, repository: str, *, last_rank: bool) -> None:
        requests = {"origin": "cdn", "path": self._delivery(repository)}
        self.stall_weights(self.folder(repository) / WEIGHTS, last_rank=last_rank, **requests)

    def is_stalled(self, repository: str) -> bool:
        return any(rule.num_used for rule in self.server.faults if rule.fault.path == self._delivery(repository))

    def deliveries(self, repository: str) -> list[Record]:
        """Requests for weights."""
        return self.server.requests.matching(origin="cdn", path=self._delivery(repository))

    def _delivery(self, repository: str) -> str:
        return f"/repos/{self.server.repository(repository).key}/*"


@pytest.fixture(scope="module")
def applied(room: Room, tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubScene]:
    with hub_for(room, tmp_path_factory.mktemp("authority")) as hub:
        scene = HubScene(room, hub, Disclosed(room))
        for seed, repository in enumerate((PRIVATE, BEHIND, SMALL, GATED)):
            scene.add(repository, seed=seed)
        scene.add(LARGE, seed=5, **LARGE_SIZE)
        hub.repository(GATED).gated = "manual"
        for token, user in ((PLANTED, "team"), (FORMER, "team"), (OF_ADA, "ada")):
            hub.add_token(token, user)
        for secret, token in (("private", PLANTED), ("rotated", WRONG), ("of-ada", OF_ADA)):
            give_token(room, secret, token)
        scene.stall(LARGE, last_rank=True)
        scene.stall(BEHIND, last_rank=False)
        scene.apply("private", PRIVATE, secret="private", **SPEC)
        scene.apply("killed", LARGE, **FEW_POSITIONS)
        scene.apply("behind", BEHIND, sharding={"seal": "Behind"})
        scene.apply("sliced", SMALL, secret="rotated", strategy="ShardOnLoad")
        scene.apply("gated", GATED, secret="of-ada", strategy=None)
        scene.apply("elsewhere", SMALL, endpoint=f"https://{CDN_HOST}")
        scene.apply("unseen", PRIVATE)
        scene.apply("untrusting", SMALL, trusts=False)
        yield scene


@pytest.fixture(scope="module")
def served(applied: HubScene) -> HubScene:
    """What was wrong was put right, two pods were killed that had most of their weights, and a branch has moved."""
    scene = applied
    scene.wait_for_reasons(
        {
            "elsewhere": "EndpointNotAllowed",
            "sliced": "SourceUnauthorized",
            "gated": "SourceGated",
            "unseen": "RepositoryNotFound",
            "untrusting": "CertificateUntrusted",
        }
    )
    scene.disclosed.look()
    for name in ("unseen", "untrusting"):
        scene.models[name].delete()
    give_token(scene.room, "rotated", FORMER)
    scene.server.repository(GATED).grants.add("ada")
    for name in ("sliced", "gated"):
        scene.models[name].retry()
    scene.progress_before_the_kill = scene.kill_preparation_of_the_last_rank("killed")
    scene.before_the_kill = scene.deliveries(LARGE)
    behind = scene.models["behind"]
    eventually(
        lambda: scene.is_stalled(BEHIND) and outages.kill(behind.serving_pods()),
        what="a worker to kill",
        instead=behind.story,
    )
    scene.server.faults.clear()
    scene.models["killed"].retry()
    scene.wait_for_starts("gated")
    scene.room.tiny(MOVED, seed=6)
    scene.server.add_revision(GATED, scene.room.folder / MOVED, "main")
    scene.wait_for_starts("private", "killed", "behind", "sliced")
    eventually(lambda: behind.sealing == "Sealed", what="shards to be sealed", instead=behind.story)
    return scene


@pytest.fixture(scope="module")
def without_hub(served: HubScene) -> HubScene:
    """Pods are replaced and NeuronModels made while nothing answers; one's token is gone, another's is another."""
    scene = served
    scene.disclosed.look()
    scene.server.down()
    scene.room.cluster.delete("Secret", "private", scene.room.namespace)
    scene.server.revoke(FORMER)
    scene.server.add_token(ROTATED, "team")
    give_token(scene.room, "rotated", ROTATED)
    for name in ("private", "behind", "sliced"):
        scene.delete_pod(name)
    on_the_same = {"template": None, "persistentVolumeClaim": {"claimName": names.templated_claim("killed")}}
    scene.apply("same", LARGE, artifacts=on_the_same, **FEW_POSITIONS)
    scene.apply("empty", SMALL)
    scene.wait_for_condition("empty", ConditionType.SOURCE_RESOLVED, "False", "SourceUnreachable")
    scene.wait_for_condition("sliced", ConditionType.SOURCE_RESOLVED, "False", "SourceUnreachable")
    scene.wait_for_starts("private", "behind", "same")
    scene.wait_for_condition("same", ConditionType.SOURCE_RESOLVED, "Unknown", "SourceUnreachable")
    scene.disclosed.look()
    return scene


@pytest.fixture(scope="module")
def returned(without_hub: HubScene) -> HubScene:
    scene = without_hub
    scene.server.up()
    for name in ("sliced", "empty"):
        scene.models[name].retry()
    scene.wait_for_starts("sliced", "empty")
    return scene


def test_a_private_repository_is_served_and_its_commit_reported(served: HubScene) -> None:
    (file,) = served.folder(PRIVATE).glob("*.safetensors")
    source, first = served.source("private"), served.starts["private"][0]
    nbytes = file.stat().st_size
    assert (source.revision, source.files, source.bytes) == (served.server.repository(PRIVATE).main, 1, nbytes)
    assert first.started_at <= source.resolved_at
    assert first.source is not None
    assert nbytes <= first.source.bytes < 1.1 * nbytes, "each byte is read once"
    assert first.source.requests > nbytes >> 24
    assert first.source.bytes_per_second
    assert_answers_as_golden(served.models["private"])


def test_tokens_go_to_the_hub_and_nowhere_else(served: HubScene) -> None:
    asked = served.server.requests.matching(origin="hub", path=f"*{PRIVATE}*")
    of_unseen = [record for record in asked if not record.authorized]
    assert {record.status for record in of_unseen} == {401}
    assert len(asked) > len(of_unseen)
    assert served.deliveries(PRIVATE)
    assert not served.server.requests.leaks


def test_preparation_that_was_killed_goes_on_with_the_ranks_that_were_not_whole(served: HubScene) -> None:
    model, start = served.models["killed"], served.starts["killed"][0]
    assert {phase.attempt for phase in start.phases if phase.stage == Stage.PREPARE} == {1, 2}
    artifacts = model.status.artifacts
    assert artifacts is not None
    nbytes, progress = (served.folder(LARGE) / WEIGHTS).stat().st_size, served.progress_before_the_kill
    assert progress is not None
    assert progress.source is not None
    assert (progress.stage, progress.phase) == (Stage.PREPARE, "Sharded")
    assert 0 < progress.source.bytes <= nbytes
    assert f"{RANKS - 1} of {RANKS} rank files were there already" in (artifacts.missed or "")
    afterwards = served.deliveries(LARGE)[len(served.before_the_kill) :]
    assert sum(record.bytes_sent for record in afterwards) < 0.7 * nbytes
    assert served.answers_as("killed", served.folder(LARGE))


def test_a_worker_that_was_killed_while_it_loaded_seals_behind_all_the_same(served: HubScene) -> None:
    start = served.starts["behind"][0]
    assert (start.cause, start.tier) == (Cause.CONTAINER_RESTARTED, "Source")
    assert served.answers_as("behind", served.folder(BEHIND))


def test_refusals_say_what_to_do_and_are_over_once_that_is_done(served: HubScene) -> None:
    for name, reason, words in (
        ("sliced", "SourceUnauthorized", ENDPOINT),
        ("gated", "SourceGated", f"{ENDPOINT}/{GATED}"),
    ):
        assert words in served.said[name, reason].message
        assert reason in event_reasons(served.models[name])
    assert served.answers_as("sliced", served.folder(SMALL))
    assert served.answers_as("gated", served.folder(GATED))
    assert served.starts["sliced"][0].tier == "Source"


def test_what_cannot_be_seen_or_trusted_is_told_apart(served: HubScene) -> None:
    assert "give a token" in served.said["unseen", "RepositoryNotFound"].message
    assert ENDPOINT in served.said["untrusting", "CertificateUntrusted"].message


def test_no_pod_is_made_for_an_endpoint_that_is_not_allowed(served: HubScene) -> None:
    condition, model = served.said["elsewhere", "EndpointNotAllowed"], served.models["elsewhere"]
    assert f"https://{CDN_HOST}" in condition.message
    assert ENDPOINT in condition.message
    assert not model.children("Pod")
    assert not model.prepare_jobs()


def test_a_branch_that_moves_is_reported_and_taken_up_by_a_restart(served: HubScene) -> None:
    model, repository = served.models["gated"], served.server.repository(GATED)
    (former,) = repository.commits.keys() - {repository.main}
    condition = model.wait_for_condition(ConditionType.UPDATE_AVAILABLE, "True", reason="NewRevision")
    assert former in condition.message
    assert repository.main in condition.message
    finished = model.finished_start()
    assert finished is not None
    assert finished.id == served.starts["gated"][0].id, "nothing was restarted"
    assert served.source("gated").revision == former
    assert served.answers_as("gated", served.folder(GATED))
    served.disclosed.look()

    model.annotate(restart="1")
    served.wait_for_starts("gated")
    assert served.source("gated").revision == repository.main
    artifacts = model.status.artifacts
    assert artifacts is not None
    assert artifacts.compiled_cache == "Hit"
    assert served.answers_as("gated", served.room.folder / MOVED)
    model.wait_for_condition(ConditionType.UPDATE_AVAILABLE, "False", reason="UpToDate")


def test_a_start_with_sealed_shards_needs_neither_the_hub_nor_a_token(without_hub: HubScene) -> None:
    for name in ("private", "behind"):
        start = without_hub.starts[name][-1]
        assert (start.cause, start.tier, start.source) == (Cause.POD_REPLACED, "Artifacts", None), "it asked nothing"
        assert not {"Compiled", "Sharded"} & set(phases(start))
    assert without_hub.room.cluster.get("Secret", "private", without_hub.room.namespace) is None
    assert_answers_as_golden(without_hub.models["private"])


def test_without_the_hub_what_is_prepared_is_served_and_what_is_not_waits_for_it(without_hub: HubScene) -> None:
    same = without_hub.models["same"]
    assert without_hub.starts["same"][0].cache == "Hit"
    assert without_hub.source("same").revision == without_hub.source("killed").revision
    assert without_hub.answers_as("same", without_hub.folder(LARGE))
    assert same.condition(ConditionType.READY).status == "True"  # type: ignore[union-attr]
    for name in ("same", "empty", "sliced"):
        assert ENDPOINT in without_hub.said[name, "SourceUnreachable"].message


def test_when_the_hub_is_there_again_they_start_with_the_token_of_now(returned: HubScene) -> None:
    for name in ("sliced", "empty"):
        assert returned.answers_as(name, returned.folder(SMALL))
        assert returned.models[name].condition(ConditionType.SOURCE_RESOLVED).status == "True"  # type: ignore[union-attr]
    assert returned.starts["sliced"][-1].source is not None


def test_no_token_and_no_signed_url_is_shown_or_kept_anywhere(returned: HubScene) -> None:
    disclosed = returned.disclosed
    disclosed.look()
    volumes = returned.volumes()
    commit = returned.source("gated").revision
    found = {place.partition(" ")[0] for shown in (commit, GATED) for place in disclosed.holding(shown)}
    assert found == set(PLACES), "it was looked at"
    assert files_holding(volumes, commit)
    for secret in (*SECRETS, *SIGNED):
        assert not disclosed.holding(secret)
    assert not files_holding(volumes, *SECRETS, *SIGNED)


def assert_answers_as_golden(model: Applied) -> None:
    (golden,) = (answer for answer in answers.ANSWERS if answer.prompt == PROMPT)
    assert completion(model, PROMPT, num_tokens=len(golden.tokens)) == golden.text
