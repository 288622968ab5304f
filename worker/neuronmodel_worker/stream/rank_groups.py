"""Which ranks are made together, and which rows of a source no rank needs.

Where rank files are sealed one by one, the bytes that several of them need come first, and then the rest rank after
rank, so that files are completed one after the other.
"""

from collections.abc import Iterable, Iterator, Sequence

from neuronmodel_worker.checkpoint import TensorSource
from neuronmodel_worker.layouts.geometry import Target, as_matrix
from neuronmodel_worker.plan.streamed import StreamedPlan
from neuronmodel_worker.stream.steps import Sizes, is_made_rank_by_rank

Group = Sequence[int]
"""The indices of ranks whose files are written at the same time."""


def rank_groups(plan: StreamedPlan, ranks: Sequence[int], sizes: Sizes) -> list[Group]:
    """Groups of about `seal_bytes`, as equal as possible."""
    if not ranks:
        return []
    count = -(-len(ranks) // max(1, sizes.seal_bytes // max(1, plan.rank_bytes)))
    each = -(-len(ranks) // count)
    return [ranks[first : first + each] for first in range(0, len(ranks), each)]


def tied_groups(unit: Iterable[Target], groups: Sequence[Group], sizes: Sizes) -> frozenset[int]:
    """The numbers of the groups that share rows of a source with another group, or whose sources are read in passes:
    these are made together, so that nothing is read once for each of them."""
    targets = tuple(unit)
    alone = len(groups) == 1
    if alone or not all(is_made_rank_by_rank(target, block, sizes) for target in targets for block in target.blocks):
        return frozenset(range(len(groups)))
    tied: set[int] = set()
    for rows in _rows_of_groups(targets, groups).values():
        tied |= _sharing(rows)
    return frozenset(tied)


Rows = tuple[int, int, int]
"""(first, end, number of the group that needs the rows)."""


def _rows_of_groups(targets: Iterable[Target], groups: Sequence[Group]) -> dict[str, set[Rows]]:
    rows: dict[str, set[Rows]] = {}
    for part in (part for target in targets for part in target.parts()):
        of_source = rows.setdefault(part.source.name, set())
        for number, group in enumerate(groups):
            for index in group:
                of_source.update((piece.row, piece.row + piece.rows, number) for piece in part.split.pieces[index])
    return rows


def _sharing(rows: Iterable[Rows]) -> set[int]:
    """The groups that share rows with another group. It is enough to know the two furthest ends so far, of two
    different groups: whatever overlaps with a third group overlaps with one of these."""
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
    """(source, first row, end) of the rows of the unit's sources that none of the ranks needs."""
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
    """The gaps between (first, end) spans, from `start` to the beginning of the last span."""
    reached = start
    for first, end in sorted(spans):
        if first > reached:
            yield reached, first
        reached = max(reached, end)
