"""What is kept of objects that watches deliver, and what is never believed."""

from typing import Any

import pytest

from neuronmodel_api import names
from neuronmodel_operator.cluster.mirror import Mirror

Object = dict[str, Any]


def job(
    name: str = "one", version: int | str = 1, *, uid: str = "uid-1", owner: str = "model-1", **more: Any
) -> Object:
    labels = {names.LABEL_UID: owner} if owner else {}
    meta = {"namespace": "team", "name": name, "uid": uid, "resourceVersion": str(version), "labels": labels}
    return {"kind": "Job", "metadata": meta} | more


def test_an_object_is_given_back_as_it_was() -> None:
    mirror, o = Mirror(), job(spec={"text": "ä" * 100})
    assert mirror.put(o)
    assert mirror.get("team", "one") == o
    assert mirror.of_owner("model-1") == (o,)
    assert mirror.get("team", "two") is mirror.get("other", "one") is None
    assert mirror.of_owner("model-2") == ()
    assert mirror.num_bytes < 400


@pytest.mark.parametrize(("version", "is_kept"), [(6, True), (5, False), (4, False), (10, True)])
def test_an_older_version_never_replaces_a_newer_one(version: int, *, is_kept: bool) -> None:
    mirror = Mirror()
    mirror.put(job(version=5))
    assert mirror.put(job(version=version)) is is_kept
    assert mirror.version("team", "one") == str(version if is_kept else 5)


def test_another_object_of_the_name_replaces_whatever_there_was() -> None:
    mirror = Mirror()
    mirror.put(job(version=5, owner="model-1"))
    assert mirror.put(job(version=3, uid="uid-2", owner="model-2"))
    assert mirror.of_owner("model-1") == ()
    assert len(mirror.of_owner("model-2")) == len(mirror) == 1


def test_a_deletion_of_a_former_object_leaves_its_successor() -> None:
    mirror = Mirror()
    mirror.put(job(uid="uid-2"))
    mirror.remove(job(uid="uid-1"))
    assert len(mirror) == 1
    mirror.remove(job(uid="uid-2", version=9))
    assert len(mirror) == 0
    assert mirror.of_owner("model-1") == ()
    mirror.remove(job())


def test_what_a_list_does_not_name_is_gone_unless_it_was_written_meanwhile() -> None:
    mirror = Mirror()
    for name in ("one", "two", "three"):
        mirror.put(job(name))
    mirror.begin_list()
    mirror.put(job("two", 2))
    mirror.put(job("new", 7))
    assert sorted(o["metadata"]["name"] for o in mirror.end_list()) == ["one", "three"]
    assert sorted(o["metadata"]["name"] for o in mirror.of_owner("model-1")) == ["new", "two"]


def test_a_list_of_one_namespace_says_nothing_of_another() -> None:
    mirror = Mirror()
    mirror.put(job("one"))
    mirror.begin_list()
    assert mirror.end_list(["elsewhere"]) == []
    assert len(mirror) == 1


@pytest.mark.parametrize(
    ("version", "than", "newer"), [("10", "9", True), ("9", "10", False), ("9", "9", False), ("a", "b", True)]
)
def test_versions_are_numbers(version: str, than: str, *, newer: bool) -> None:
    mirror = Mirror()
    for each in (than, version):
        mirror.put(job(version=each))
    assert mirror.version("team", "one") == (version if newer else than)
