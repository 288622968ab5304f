"""Which ranks are made together, and which rows of a source nobody needs.

Where rank files are sealed one by one, what serves several of them comes first and the rest rank after rank: a file is
complete when the last byte that is its alone is there.
"""

from collections.abc import Iterable, Iterator, Sequence

from neuronmodel_worker.checkpoint import TensorSource
from neuronmodel_worker.layouts.geometry import Target, as_matrix
from neuronmodel_worker.plan.streamed import Plan
from neuronmodel_worker.stream.steps import Sizes, is_made_rank_by_rank

Group = Sequence[int]
"""Indices of ranks whose files are completed side by side."""


def rank_groups(plan: Plan, ranks: Sequence[int], sizes: Sizes) -> list[Group]:
    """Groups of about `seal_bytes`, as even as can be."""
    if not ranks:
        return []
    count = -(-len(ranks) // max(1, sizes.seal_bytes // max(1, plan.rank_bytes)))
    each = -(-len(ranks) // count)
    return [ranks[first : first + each] for first in range(0, len(ranks), each)]


def tied_groups(unit: Iterable[Target], groups: Sequence[Group], sizes: Sizes) -> frozenset[int]:
    """Numbers of the groups that share rows of a source with another one, or whose sources are read in passes: these
    are made together, so that nothing is read for each of them."""
    targets = tuple(unit)
    alone = len(groups) == 1
    if alone or not all(is_made_rank_by_rank(target, block, sizes) for target in targets for block in target.blocks):
        return frozenset(range(len(groups)))
    tied: set[int] = set()
    for rows in _rows_of_groups(targets, groups).values():
        tied |= _sharing(rows)
    return frozenset(tied)


Rows = tuple[int, int, int]
"""(first, end, number of the group that needs them)."""


def _rows_of_groups(targets: Iterable[Target], groups: Sequence[Group]) -> dict[str, set[Rows]]:
    rows: dict[str, set[Rows]] = {}
    for part in (part for target in targets for part in target.parts()):
        of_source = rows.setdefault(part.source.name, set())
        for number, group in enumerate(groups):
            for index in group:
                of_source.update((piece.row, piece.row + piece.rows, number) for piece in part.split.pieces[index])
    return rows


def _sharing(rows: Iterable[Rows]) -> set[int]:
    """Groups of which some rows are another's as well. The furthest ends so far, of two different groups, are enough
    to know: who overlaps with a third one overlapped with one of these."""
    sharing: set[int] = set()
    furthest, other = (-1, -1), (-1, -1)
    for first, end, group in sorted(rows):
        for far_end, far_group in (furthest, other):
            if far_end > first and far_group != group:
                sharing |= {group, far_group}
        if group == furthest[1]:
            furthest = max(furthest, (end, group))
        elif end > furthest[0]:
            furthest, other = (end, group), furthest
        elif end > other[0]:
            other = (end, group)
    return sharing


def unneeded_rows(unit: Iterable[Target], ranks: Sequence[int]) -> Iterator[tuple[TensorSource, int, int]]:
    """(source, first row, end) of what none of the ranks needs of the unit's sources."""
    needed: dict[str, set[tuple[int, int]]] = {}
    sources: dict[str, TensorSource] = {}
    for part in (part for target in unit for part in target.parts()):
        sources[part.source.name] = part.source
        of_source = needed.setdefault(part.source.name, set())
        for index in ranks:
            of_source.update((piece.row, piece.row + piece.rows) for piece in part.split.pieces[index])
    for name, source in sources.items():
        total = as_matrix(source.shape)[0]
        for first, end in gaps([*needed[name], (total, total)], start=0):
            yield source, first, end


def gaps(spans: Iterable[tuple[int, int]], start: int) -> Iterator[tuple[int, int]]:
    """What lies between (first, end) spans, from `start` to the first of the last of them."""
    reached = start
    for first, end in sorted(spans):
        if first > reached:
            yield reached, first
        reached = max(reached, end)
