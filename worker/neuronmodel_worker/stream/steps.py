"""A plan cut into steps of bounded size, as a pure function: which bytes are read together and written together.

A step fills one rectangle of one rank's tensor from pieces of sources. Steps are grouped into units: all steps that
need the same sources are in one unit and in the order of the source's rows, so a unit reads every byte once and holds
a chunk only while later steps still need it. Units are independent of each other.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from math import inf

from neuronmodel_worker.layouts.geometry import Block, Part, Piece, Target, row_bytes
from neuronmodel_worker.plan import Plan


@dataclass(frozen=True, slots=True)
class Sizes:
    """`chunk_bytes` are read at a time. A transposed tensor needs more rows of its source at once, for a stored row
    runs through all of them: up to `transposed_bytes`."""

    chunk_bytes: int = 16 << 20
    transposed_bytes: int = 128 << 20


@dataclass(frozen=True, slots=True)
class Step:
    """`rows` rows of a block's frame, from `row` on, for the rank at `rank_index` of the plan's ranks."""

    target: Target
    block: Block
    rank_index: int
    row: int
    rows: int
    cuts: tuple[tuple[Part, Piece], ...]
    """Pieces cut down to these rows; `at_row` counts from `row`."""

    @property
    def padded(self) -> bool:
        """Whether some of the rectangle is zero."""
        return sum(piece.rows * piece.columns for _, piece in self.cuts) < self.rows * self.block.columns

    @property
    def rectangle(self) -> Piece:
        """The place in the stored matrix."""
        if self.target.transposed:
            return Piece(self.block.at_row, self.block.columns, self.row, self.rows)
        return Piece(self.block.at_row + self.row, self.rows, 0, self.block.columns)


def units(plan: Plan) -> list[tuple[Target, ...]]:
    """Targets grouped so that no source is needed in two groups (tied embeddings are two targets of one source)."""
    group_of: dict[str, list[Target]] = {}
    for target in plan.targets:
        names = {part.source.name for part in target.parts()}
        touched = {id(group): group for name in names if (group := group_of.get(name)) is not None}
        merged = [each for group in touched.values() for each in group] + [target]
        sources = {part.source.name for each in merged for part in each.parts()}
        group_of.update(dict.fromkeys(sources, merged))
    return [tuple(group) for group in {id(group): group for group in group_of.values()}.values()]


def steps(targets: Iterable[Target], num_ranks: int, sizes: Sizes) -> list[Step]:
    """The steps of one unit, in the order of the source's rows, so that what is read is soon let go."""
    keyed = [each for target in targets for each in _keyed_steps(target, num_ranks, sizes)]
    return [step for _, step in sorted(keyed, key=lambda each: each[0])]


def _keyed_steps(target: Target, num_ranks: int, sizes: Sizes) -> Iterator[tuple[tuple[int, float, int], Step]]:
    for index, block in enumerate(target.blocks):
        for rank_index in range(num_ranks):
            latest = 0.0
            for row, rows in _bands(target, block, sizes):
                step = Step(target, block, rank_index, row, rows, tuple(_cuts(block, rank_index, row, rows)))
                # Never before the rank's own earlier rows: a tensor's bytes are digested in order.
                latest = max(latest, min((float(piece.row) for _, piece in step.cuts), default=-inf))
                yield (index, latest, rank_index), step


def _bands(target: Target, block: Block, sizes: Sizes) -> Iterator[tuple[int, int]]:
    limit = sizes.transposed_bytes if target.transposed else sizes.chunk_bytes
    each = max(1, limit // max(1, max(row_bytes(part.source) for part in block.parts)))
    for row in range(0, block.rows, each):
        yield row, min(each, block.rows - row)


def _cuts(block: Block, rank_index: int, row: int, rows: int) -> Iterator[tuple[Part, Piece]]:
    top = 0
    for part in block.parts:
        for piece in part.split.pieces[rank_index]:
            at = top + piece.at_row
            start, stop = max(row, at), min(row + rows, at + piece.rows)
            if start < stop:
                yield part, replace(piece, row=piece.row + start - at, rows=stop - start, at_row=start - row)
        top += part.split.rows
