"""What a list of all NeuronModels leads to."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from neuronmodel_operator.cluster.client import Kind, Object, Page
from neuronmodel_operator.runtime.resync import resync


def model(uid: str, version: int = 1) -> Object:
    identity = {"namespace": "team", "name": f"model-{uid}", "uid": uid, "resourceVersion": str(version)}
    return {"metadata": identity | {"managedFields": [{"manager": "somebody"}]}}


@dataclass
class Lists:
    pages: dict[str | None, list[list[Object]]]
    asked: list[tuple[str | None, str]] = field(default_factory=list)

    async def list_page(
        self, kind: Kind, namespace: str | None, labels: str, limit: int, rest: str, *, metadata_only: bool = False
    ) -> Page:
        assert metadata_only
        self.asked.append((namespace, rest))
        pages = self.pages[namespace]
        number = int(rest or 0)
        return Page(tuple(pages[number]), "9", str(number + 1) if number + 1 < len(pages) else "")


@dataclass
class Followed:
    followed: frozenset[str]
    listed: Sequence[Mapping[str, Any]] = ()
    begun_with: frozenset[str] = frozenset()

    def models_listed(self, models: Sequence[Mapping[str, Any]], begun_with: frozenset[str]) -> None:
        self.listed, self.begun_with = models, begun_with


async def test_all_pages_of_all_namespaces_are_one_list() -> None:
    lists = Lists({"a": [[model("1")], [model("2")]], "b": [[]], "c": [[model("3", 7)]]})
    followed = Followed(frozenset({"1", "9"}))
    await resync(lists, ["a", "b", "c"], followed)
    assert lists.asked == [("a", ""), ("a", "1"), ("b", ""), ("c", "")]
    assert [each["metadata"]["uid"] for each in followed.listed] == ["1", "2", "3"]
    assert set(followed.listed[2]["metadata"]) == {"namespace", "name", "uid", "resourceVersion"}
    assert followed.begun_with == {"1", "9"}


async def test_without_namespaces_the_whole_cluster_is_listed() -> None:
    lists = Lists({None: [[model("1")]]})
    await resync(lists, [], Followed(frozenset()))
    assert lists.asked == [(None, "")]
