"""The vocabulary of a layout: which rectangles of a source matrix go where on every rank.

Tensors are matrices here: a vector of n elements is n × 1, a stack [E, H, W] is (E·H) × W. Every rank's tensors have
the same names, types and shapes; only what fills them differs. Splits are made of integers alone and are shared by all
layers, so that the plan of a model with thousands of tensors stays small.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import groupby
from math import prod

from neuronmodel_worker.checkpoint import DTYPE_BITS, TensorSource
from neuronmodel_worker.layouts.heads import Head, round_up

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Rectangle:
    """The rectangle source[row : row + rows, column : column + columns], copied to `at_row`, `at_column` of a frame."""

    row: int
    rows: int
    column: int
    columns: int
    at_row: int = 0
    at_column: int = 0


@dataclass(frozen=True, slots=True)
class Split:
    """How one source matrix is split: every rank has a frame of `rows` × `columns`, its pieces fill some of it, and the
    rest is zero. `pieces` holds one tuple for each rank that is made, in order."""

    rows: int
    columns: int
    pieces: tuple[tuple[Rectangle, ...], ...]

    def source_rows(self) -> range:
        """The rows of the source from the first to the last that any of the ranks needs."""
        pieces = [piece for of_rank in self.pieces for piece in of_rank]
        start = min((piece.row for piece in pieces), default=0)
        return range(start, max((piece.row + piece.rows for piece in pieces), default=start))


@dataclass(frozen=True, slots=True)
class SourcePart:
    """One source and its split. With a factor every row is first multiplied by that vector, element by element."""

    source: TensorSource
    split: Split
    factor: TensorSource | None = None


@dataclass(frozen=True, slots=True)
class Block:
    """Parts stacked into one frame, from the first row down: a whole tensor of a rank, or `at_row` rows into it."""

    parts: tuple[SourcePart, ...]
    at_row: int = 0

    @property
    def rows(self) -> int:
        return sum(part.split.rows for part in self.parts)

    @property
    def columns(self) -> int:
        return self.parts[0].split.columns


@dataclass(frozen=True)
class Target:
    """A tensor that every rank has. With `transposed` each block's frame is stored transposed; `at_row` counts rows
    of what is stored."""

    name: str
    dtype: str
    shape: Shape
    blocks: tuple[Block, ...]
    transposed: bool = False

    @cached_property
    def nbytes(self) -> int:
        return prod(self.shape) * DTYPE_BITS[self.dtype] // 8

    @property
    def matrix(self) -> tuple[int, int]:
        return as_matrix(self.shape)

    def parts(self) -> Iterator[SourcePart]:
        return (part for block in self.blocks for part in block.parts)


def as_matrix(shape: Shape) -> tuple[int, int]:
    if len(shape) < 2:
        return prod(shape), 1
    return prod(shape[:-1]), shape[-1]


def row_bytes(source: TensorSource) -> int:
    return as_matrix(source.shape)[1] * DTYPE_BITS[source.dtype] // 8


def equal_part(size: int, degree: int) -> int:
    """How many of `size` rows or columns each of `degree` ranks has, including padding with zeros at the end."""
    return round_up(size, degree) // degree


@cache
def whole(shape: Shape, ranks: range) -> Split:
    rows, columns = as_matrix(shape)
    return Split(rows, columns, ((Rectangle(0, rows, 0, columns),),) * len(ranks))


@cache
def by_rows(shape: Shape, degree: int, ranks: range) -> Split:
    """Rank r has the r-th equal block of rows; the last blocks are padded with zero rows."""
    rows, columns = as_matrix(shape)
    each = equal_part(rows, degree)
    return Split(each, columns, tuple(_rows_from(rank * each, each, rows, columns) for rank in ranks))


def _rows_from(start: int, each: int, rows: int, columns: int) -> tuple[Rectangle, ...]:
    stop = min(start + each, rows)
    return (Rectangle(start, stop - start, 0, columns),) if stop > start else ()


@cache
def by_columns(shape: Shape, degree: int, ranks: range) -> Split:
    """Rank r has the r-th equal block of columns; the last blocks are padded with zero columns."""
    rows, columns = as_matrix(shape)
    each = equal_part(columns, degree)
    return Split(rows, each, tuple(_columns_from(rank * each, each, rows, columns) for rank in ranks))


def _columns_from(start: int, each: int, rows: int, columns: int) -> tuple[Rectangle, ...]:
    stop = min(start + each, columns)
    return (Rectangle(0, rows, start, stop - start),) if stop > start else ()


@cache
def by_head_rows(shape: Shape, places: tuple[Head, ...], head_size: int, degree: int, ranks: range) -> Split:
    """Rank r has the r-th equal block of places, each with the `head_size` rows of the head in that place."""
    _, columns = as_matrix(shape)
    each = len(places) // degree
    pieces = tuple(
        tuple(
            Rectangle(head * head_size, count * head_size, 0, columns, at_row=place * head_size)
            for place, head, count in _runs(places[rank * each : (rank + 1) * each])
        )
        for rank in ranks
    )
    return Split(each * head_size, columns, pieces)


@cache
def by_head_columns(shape: Shape, places: tuple[Head, ...], head_size: int, degree: int, ranks: range) -> Split:
    """As `by_head_rows`, on columns."""
    rows, _ = as_matrix(shape)
    each = len(places) // degree
    pieces = tuple(
        tuple(
            Rectangle(0, rows, head * head_size, count * head_size, at_column=place * head_size)
            for place, head, count in _runs(places[rank * each : (rank + 1) * each])
        )
        for rank in ranks
    )
    return Split(rows, each * head_size, pieces)


def _runs(places: tuple[Head, ...]) -> Iterator[tuple[int, int, int]]:
    """(place, head, count) of every run of consecutive heads."""
    present = [(place, head) for place, head in enumerate(places) if head is not None]
    for _, group in groupby(enumerate(present), key=lambda each: (each[1][1] - each[0], each[1][0] - each[0])):
        run = [each for _, each in group]
        yield run[0][0], run[0][1], len(run)
