"""A process killed before each of its changes to the store, one after the other: every one of them, none by chance.

After each cut the store holds no wrong set, the next run makes it right, reuses what was sealed, and leaves nothing
behind.
"""

import shutil
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import pytest

from neuronmodel_api.report import Result
from tests.store_faults.calls import SYNCS
from tests.store_faults.expected import Unsound, check_set, check_sets, rank_path, remains, sealed_ranks
from tests.store_faults.forking import ForkServer
from tests.store_faults.jobs import Model, clean_up, collect, prepare, unsynced
from tests.store_faults.traced import KillAt, Outcome

STAGING = "/staging/"
"""What happens below it is cut in one test at every call; others cut only what happens elsewhere."""


def keys(server: ForkServer, models: Iterable[Model], scratch: Path) -> dict[str, Model]:
    """Of the models' shards."""
    found = {}
    for number, model in enumerate(models):
        (root := scratch / str(number)).mkdir(parents=True)
        result = server.run(partial(unsynced, prepare, replace(model, root=root)))
        assert isinstance(result, Result)
        assert result.shards_key
        found[result.shards_key] = model
    return found


def test_a_writer_may_die_before_any_change(servers: list[ForkServer], source: Path, tmp_path: Path) -> None:
    model = Model(tmp_path / "store", source)
    shards = keys(servers[0], [model], tmp_path / "keys")
    (key,) = shards
    model.root.mkdir()
    uncut = servers[0].follow(partial(prepare, model), model.root, KillAt(0))

    def cut(server: ForkServer, number: int) -> bool:
        mine = replace(model, root=tmp_path / f"cut-{number}")
        mine.root.mkdir()
        outcome = server.follow(partial(prepare, mine), mine.root, KillAt(number))
        sets = check_sets(mine.root, shards)
        sealed = sealed_ranks(mine.root)
        assert outcome.killed or ("shards", key) in sets
        result = server.run(partial(unsynced, prepare, mine))
        assert isinstance(result, Result), (at(outcome, mine.root), result)
        sets = check_sets(mine.root, shards)
        weights = sets["shards", key] / "weights"
        assert sealed.items() <= {path.name: path.stat().st_ino for path in weights.iterdir()}.items()
        assert len(sets) == 2
        assert remains(mine.root) == [], at(outcome, mine.root)
        shutil.rmtree(mine.root)
        return outcome.killed

    changes = [call for call in uncut.changes if call.name not in SYNCS]
    assert one_after_the_other(servers, cut) >= len(changes) - 10  # two threads: some calls more or less


def at(outcome: Outcome, root: Path) -> str:
    return f"cut before {outcome.changes[-1].describe(root)}" if outcome.killed else "uncut"


def one_after_the_other(servers: list[ForkServer], cut: Callable[[ForkServer, int], bool]) -> int:
    """Cut at 1, 2, 3 … until there is no such change, as `cut` says; the servers take turns. Returns how many there
    were."""

    def every(first: int) -> int:
        number = first + 1
        while cut(servers[first], number):
            number += len(servers)
        return number

    with ThreadPoolExecutor(len(servers)) as pool:
        return max(pool.map(every, range(len(servers)))) - 1


@dataclass(frozen=True)
class Place:
    """A store that `fill` made, to be copied for each cut; `shards` are the models by the keys of their shards."""

    servers: list[ForkServer]
    source: Path
    top: Path
    shards: dict[str, Model]
    first: Model
    wider: Model
    """The first one's successor, of another degree."""
    other: Model
    """Of the same key as the first one."""

    def key(self, model: Model) -> str:
        return next(key for key, each in self.shards.items() if each.flags == model.flags)

    def cut_everywhere(
        self, job: Callable[[Model], object], model: Model, right: Callable[[Path], object], damaged: str = ""
    ) -> int:
        """Cut `job` before every change outside of stagings; the set `damaged` is so from the start. `right` says what
        has to be so when it was run again."""

        def cut(server: ForkServer, number: int) -> bool:
            root = self.top / f"cut-{number}"
            shutil.copytree(self.top / "template", root)
            mine = replace(model, root=root)
            outcome = server.follow(partial(job, mine), root, KillAt(number, STAGING))
            self.check(root, but=damaged)
            server.run(partial(unsynced, job, mine))
            self.check(root)
            assert remains(root) == [], at(outcome, root)
            right(root)
            shutil.rmtree(root)
            return outcome.killed

        return one_after_the_other(self.servers, cut)

    def check(self, root: Path, but: str = "") -> None:
        sets = [path for kind in ("compiled", "shards") for path in (root / kind).glob("*")]
        for directory in sets:
            try:
                check_set(directory, directory.parent.name, self.shards.get(directory.name))
            except Unsound:
                if directory.name != but:
                    raise
        for apart in (root / "quarantine").glob("[!.]*"):
            twin = apart.with_name(f"{apart.name}.reason.txt")
            assert apart.name.endswith(".reason.txt") or twin.read_text(), apart


@pytest.fixture
def filled(servers: list[ForkServer], source: Path, tmp_path: Path) -> Place:
    (root := tmp_path / "template").mkdir()
    first = Model(root, source)
    wider, other = replace(first, flags={"tp_degree": 4}), replace(first, name="other")
    shards = keys(servers[0], [first, wider], tmp_path / "keys")
    assert isinstance(servers[0].run(partial(unsynced, prepare, first)), Result)
    return Place(servers, source, tmp_path, shards, first, wider, other)


def owners(root: Path) -> dict[str, set[str]]:
    """Names of models by key."""
    found: dict[str, set[str]] = {}
    for path in (root / "refs").glob("*/*"):
        found.setdefault(path.parent.name, set()).add(path.name.split(".")[1])
    return found


def test_a_damaged_set_is_replaced_whenever_the_one_who_does_it_dies(filled: Place) -> None:
    key = filled.key(filled.first)
    rank = rank_path(filled.first.root / "shards" / key, 1)
    rank.write_bytes(rank.read_bytes()[:-1])

    def right(root: Path) -> None:
        assert (root / "shards" / key).is_dir()
        (apart,) = [path for path in (root / "quarantine").iterdir() if path.is_dir()]
        assert "tp1" in apart.with_name(f"{apart.name}.reason.txt").read_text()
        assert len(list((root / "quarantine").iterdir())) == 2

    assert filled.cut_everywhere(prepare, filled.first, right, damaged=key) > 10


def test_a_change_of_key_may_be_cut_short_anywhere(filled: Place) -> None:
    before, after = filled.key(filled.first), filled.key(filled.wider)

    def right(root: Path) -> None:
        assert {path.name for path in (root / "shards").iterdir()} == {before, after}
        assert owners(root)[after] == {"one"}
        assert before not in owners(root)

    assert filled.cut_everywhere(prepare, filled.wider, right) > 10


def test_a_cleanup_may_be_cut_short_anywhere(filled: Place) -> None:
    wide = replace(filled.wider, name="wide")
    for model in (filled.other, wide):
        assert isinstance(filled.servers[0].run(partial(unsynced, prepare, model)), Result)

    def right(root: Path) -> None:
        assert [path.name for path in (root / "shards").iterdir()] == [filled.key(filled.first)]
        assert len(list((root / "compiled").iterdir())) == 1
        assert list(owners(root).values()) == [{"one", "other"}] * 2

    assert filled.cut_everywhere(clean_up, wide, right) > 5


def test_a_collection_may_be_cut_short_anywhere(filled: Place) -> None:
    assert isinstance(filled.servers[0].run(partial(unsynced, prepare, filled.wider)), Result)
    assert len(list((filled.first.root / "shards").iterdir())) == 2

    def right(root: Path) -> None:
        assert [path.name for path in (root / "shards").iterdir()] == [filled.key(filled.wider)]
        assert len(list((root / "compiled").iterdir())) == 1

    assert filled.cut_everywhere(collect, filled.first, right) > 5
