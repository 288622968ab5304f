"""Cuts a plan into steps of bounded size, as a pure function: which part of which rank's tensor is made at once.

A step makes whole rows of what is stored, so it is written in one place. Steps that have to be made together, because
every row of their source contains a part of each of them, form a batch.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import gcd
from typing import NamedTuple

from neuronmodel_worker.io.disk import BLOCK
from neuronmodel_worker.layouts.geometry import Block, Rectangle, SourcePart, Target, as_matrix, row_bytes
from neuronmodel_worker.plan.streamed import StreamedPlan
from neuronmodel_worker.stream.buffers import buffer_size
from neuronmodel_worker.stream.dtypes import STORAGE


@dataclass(frozen=True, slots=True)
class Sizes:
    """`chunk_bytes` are read at a time, and written where a rank has whole rows of a source. Where it has columns, a
    chunk contains little of each rank: frames of `wide_bytes` are filled before any is written. Where columns are
    stored transposed, a stored row runs through all rows of the source: frames of up to `held_bytes` are filled
    together. All buffers of a run take up `memory_bytes`. Where rank files are sealed one by one, files of about
    `seal_bytes` in total are made at the same time."""

    chunk_bytes: int = 16 << 20
    held_bytes: int = 224 << 20
    wide_bytes: int = 64 << 20
    memory_bytes: int = 640 << 20
    seal_bytes: int = 8 << 30


class Step(NamedTuple):
    """The rectangle of a block's frame from `row` and `column` on, for the rank at `rank_index` of the plan's ranks. It
    has all columns, or all rows of a target that is stored transposed."""

    target: Target
    block: Block
    rank_index: int
    row: int
    rows: int
    column: int
    columns: int
    cuts: tuple[tuple[SourcePart, Rectangle], ...]
    """The parts that fall into the rectangle; `at_row` and `at_column` count from its corner. Those of a task's step
    are of the unit that it was laid out for: they say which parts of the rectangle are filled, not from where."""

    @property
    def padded(self) -> bool:
        """Whether some of the rectangle is zero."""
        return sum(piece.rows * piece.columns for _, piece in self.cuts) < self.rows * self.columns

    @property
    def nbytes(self) -> int:
        return self.rows * self.columns * STORAGE[self.target.dtype].itemsize

    @property
    def buffer_bytes(self) -> int:
        """The size of a buffer for its frame, which lies there as its bytes lie in the blocks of their file."""
        return buffer_size(self.nbytes + BLOCK)

    @property
    def start(self) -> int:
        """The number of bytes of the tensor before those of this step."""
        stored_row = self.block.at_row + (self.column if self.target.transposed else self.row)
        return stored_row * self.target.matrix[1] * STORAGE[self.target.dtype].itemsize

    @property
    def first_row(self) -> int:
        """The first row of a source that the step needs."""
        return min((piece.row for _, piece in self.cuts), default=0)


@dataclass(frozen=True, slots=True)
class Batch:
    """Steps that are made together. With `in_passes` each batch of the block reads its own columns of the source, which
    has too many rows to be kept in memory."""

    index: int
    steps: tuple[Step, ...]
    in_passes: bool = False


Unit = tuple[Target, ...]


def every_rank(plan: StreamedPlan) -> range:
    """The indices of all the plan's ranks."""
    return range(len(plan.ranks))


def units(plan: StreamedPlan) -> list[Unit]:
    """Targets grouped so that no source is needed in two groups (tied embeddings are two targets of one source)."""
    group_of: dict[str, list[Target]] = {}
    for target in plan.targets:
        names = {part.source.name for part in target.parts()}
        touched = {id(group): group for name in names if (group := group_of.get(name)) is not None}
        merged = [each for group in touched.values() for each in group] + [target]
        sources = {part.source.name for each in merged for part in each.parts()}
        group_of.update(dict.fromkeys(sources, merged))
    return [tuple(group) for group in {id(group): group for group in group_of.values()}.values()]


def batches(targets: Iterable[Target], ranks: Sequence[int], sizes: Sizes, buffered: bool) -> list[Batch]:
    """The batches of one unit for the ranks at these indices, in an order in which every rank's tensors grow from their
    first byte to their last, and chunks are released soon. With `buffered` the frames of a batch take up memory until
    they are written."""
    keyed: list[tuple[int, int, Batch]] = []
    for target in targets:
        for index, block in enumerate(target.blocks):
            latest: dict[int, int] = {}
            for batch in _batches(target, block, index, ranks, sizes, buffered):
                row = 0
                for step in batch.steps:
                    row = max(row, latest.get(step.rank_index, 0), step.first_row)
                latest.update(dict.fromkeys((step.rank_index for step in batch.steps), row))
                keyed.append((index, row, batch))
    return [batch for _, _, batch in sorted(keyed, key=lambda each: each[:2])]


def _batches(
    target: Target, block: Block, index: int, ranks: Sequence[int], sizes: Sizes, buffered: bool
) -> Iterator[Batch]:
    itemsize = STORAGE[target.dtype].itemsize
    if not target.transposed:
        stored_row = block.columns * itemsize
        if _has_whole_rows(block):
            widest = max(stored_row, *(row_bytes(part.source) for part in block.parts))
            for row, rows in bands(block.rows, sizes.chunk_bytes // max(1, widest), stored_row):
                for rank in ranks:
                    yield Batch(index, (_step(target, block, rank, row, rows, 0, block.columns),))
        else:
            for row, rows in bands(block.rows, sizes.wide_bytes // max(1, stored_row * len(ranks)), stored_row):
                yield Batch(index, tuple(_step(target, block, rank, row, rows, 0, block.columns) for rank in ranks))
    elif is_made_rank_by_rank(target, block, sizes):
        for rank in ranks:
            for column, columns in bands(
                block.columns, sizes.chunk_bytes // (block.rows * itemsize), block.rows * itemsize
            ):
                yield Batch(index, (_step(target, block, rank, 0, block.rows, column, columns),))
    else:
        yield from _passes(target, block, index, ranks, sizes.held_bytes if buffered else 1 << 62)


def is_made_rank_by_rank(target: Target, block: Block, sizes: Sizes) -> bool:
    """Whether a rank is made of whole rows, without passes over the source; other ranks may need some of them too."""
    return _has_whole_rows(block) and (not target.transposed or _rows_fit(block, sizes))


def _has_whole_rows(block: Block) -> bool:
    """Whether each rank needs whole rows of the sources."""
    return all(
        piece.columns == as_matrix(part.source.shape)[1]
        for part in block.parts
        for pieces in part.split.pieces
        for piece in pieces
    )


def _rows_fit(block: Block, sizes: Sizes) -> bool:
    """Whether the rows are few enough to be kept in memory until all their columns are stored."""
    return sum(part.split.rows * row_bytes(part.source) for part in block.parts) <= sizes.held_bytes


def _passes(target: Target, block: Block, index: int, ranks: Sequence[int], held_bytes: int) -> Iterator[Batch]:
    """Batches of as few passes over the source as the memory for the frames allows, each for the columns of some
    ranks."""
    stored_row = block.rows * STORAGE[target.dtype].itemsize
    at_once = max(1, held_bytes // max(1, stored_row))
    if ranks_at_once := at_once // block.columns:
        passes = -(-len(ranks) // ranks_at_once)
        each = -(-len(ranks) // passes)  # evenly
        for first in range(0, len(ranks), each):
            of_pass = ranks[first : first + each]
            steps = tuple(_step(target, block, rank, 0, block.rows, 0, block.columns) for rank in of_pass)
            yield Batch(index, steps, in_passes=passes > 1)
        return
    for rank in ranks:
        for column, columns in bands(block.columns, at_once, stored_row):
            yield Batch(index, (_step(target, block, rank, 0, block.rows, column, columns),), in_passes=True)


def bands(total: int, each: int, nbytes: int) -> Iterator[tuple[int, int]]:
    """(start, count) of runs of at most `each` of `total` rows of `nbytes`, in whole disk blocks where possible."""
    whole = BLOCK // gcd(BLOCK, max(1, nbytes))
    each = max(1, each - each % whole if each >= whole else each)
    for start in range(0, total, each):
        yield start, min(each, total - start)


def _step(target: Target, block: Block, rank_index: int, row: int, rows: int, column: int, columns: int) -> Step:
    cuts = tuple(_cuts(block, rank_index, row, rows, column, columns))
    return Step(target, block, rank_index, row, rows, column, columns, cuts)


def _cuts(
    block: Block, rank_index: int, row: int, rows: int, column: int, columns: int
) -> Iterator[tuple[SourcePart, Rectangle]]:
    top = 0
    for part in block.parts:
        for piece in part.split.pieces[rank_index]:
            at_row, at_column = top + piece.at_row, piece.at_column
            first_row, last_row = max(row, at_row), min(row + rows, at_row + piece.rows)
            first_column, last_column = max(column, at_column), min(column + columns, at_column + piece.columns)
            if first_row < last_row and first_column < last_column:
                yield (
                    part,
                    Rectangle(
                        row=piece.row + first_row - at_row,
                        rows=last_row - first_row,
                        column=piece.column + first_column - at_column,
                        columns=last_column - first_column,
                        at_row=first_row - row,
                        at_column=first_column - column,
                    ),
                )
        top += part.split.rows
