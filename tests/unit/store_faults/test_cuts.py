"""A writer killed before each of its changes to the store, one after the other: every one of them, none by chance.

After each cut the store holds no wrong set, the next run makes the right one, reuses what was sealed, and leaves
nothing behind.
"""

import shutil
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

from neuronmodel_api.report import Result
from tests.unit.store_faults.expected import check_sets, remains, sealed_ranks
from tests.unit.store_faults.forking import ForkServer
from tests.unit.store_faults.jobs import Model, prepare
from tests.unit.store_faults.traced import KillAt, Outcome


def keys(server: ForkServer, models: Iterable[Model], scratch: Path) -> dict[str, Model]:
    """Of the models' shards."""
    found = {}
    for number, model in enumerate(models):
        result = server.run(partial(prepare, replace(model, root=scratch / str(number))))
        assert isinstance(result, Result)
        assert result.shards_key
        found[result.shards_key] = model
    return found


def test_a_writer_may_die_before_any_change(servers: list[ForkServer], source: Path, tmp_path: Path) -> None:
    model = Model(tmp_path / "store", source)
    shards = keys(servers[0], [model], tmp_path / "keys")
    (key,) = shards
    uncut = servers[0].follow(partial(prepare, model), model.root, KillAt(0))

    def cut(server: ForkServer, number: int) -> bool:
        """Whether there was a `number`-th change."""
        mine = replace(model, root=tmp_path / f"cut-{number}")
        outcome = server.follow(partial(prepare, mine), mine.root, KillAt(number))
        sets = check_sets(mine.root, shards)
        sealed = sealed_ranks(mine.root)
        assert outcome.killed or ("shards", key) in sets
        result = server.run(partial(prepare, mine))
        assert isinstance(result, Result), at(outcome, mine.root)
        sets = check_sets(mine.root, shards)
        weights = sets["shards", key] / "weights"
        assert sealed.items() <= {path.name: path.stat().st_ino for path in weights.iterdir()}.items()
        assert len(sets) == 2
        assert remains(mine.root) == [], at(outcome, mine.root)
        shutil.rmtree(mine.root)
        return outcome.killed

    cuts = one_after_the_other(servers, cut)
    assert cuts >= len(uncut.changes) - 5


def at(outcome: Outcome, root: Path) -> str:
    return f"cut before {outcome.changes[-1].said(root)}" if outcome.killed else "uncut"


def one_after_the_other(servers: list[ForkServer], cut: Callable[[ForkServer, int], bool]) -> int:
    """Cut at 1, 2, 3 … until there is no such change; the servers take turns. Returns how many there were."""

    def every(first: int) -> int:
        number = first + 1
        while cut(servers[first], number):
            number += len(servers)
        return number

    with ThreadPoolExecutor(len(servers)) as pool:
        return max(pool.map(every, range(len(servers)))) - 1
