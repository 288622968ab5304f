"""The order of work: when each chunk of a source is read, who uses it, and when its memory is free again.

Batches that share a chunk, or that make earlier and later bytes of one tensor, form one task, which one thread does
from its first batch to its last; tasks are independent of each other. A task's memory is known before it starts.
"""

from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Iterator, Sequence, Set
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import NamedTuple

from neuronmodel_worker.checkpoint import DTYPE_BITS, TensorSource
from neuronmodel_worker.io.aligned import SLACK
from neuronmodel_worker.layouts.geometry import Block, Rectangle, SourcePart, Target, as_matrix
from neuronmodel_worker.plan.streamed import StreamedPlan
from neuronmodel_worker.stream.buffers import buffer_size
from neuronmodel_worker.stream.prefetch import observed_at_once
from neuronmodel_worker.stream.rank_groups import Group, gaps, rank_groups, tied_groups, unneeded_rows
from neuronmodel_worker.stream.steps import Batch, Sizes, Step, Unit, batches, units

# The rows of a chunk are a multiple of this, so that they begin on a cache line when they are stored transposed.
EVEN = 64


# Tuples, of which a run makes tens of thousands: to make a frozen dataclass takes several times as long.


class Chunk(NamedTuple):
    """A rectangle of a source that is read at once: whole rows, except for a batch that is made in passes."""

    source: TensorSource
    row: int
    rows: int
    column: int
    columns: int

    @property
    def nbytes(self) -> int:
        return self.rows * self.columns * DTYPE_BITS[self.source.dtype] // 8

    @property
    def buffer_bytes(self) -> int:
        """The size of a buffer that it is read into."""
        return buffer_size(self.nbytes + SLACK)

    @property
    def whole_rows(self) -> bool:
        return self.columns == as_matrix(self.source.shape)[1]

    @property
    def key(self) -> tuple[str, int, int]:
        return self.source.name, self.row, self.column


@dataclass(frozen=True, slots=True)
class ChunkCopy:
    """Copies rows[row : row + rows, column : column + columns] of a chunk to `at_row`, `at_column` of a step's
    frame."""

    step: int
    part: SourcePart
    """Of the unit that the copy was laid out for; `Task.part` is that of the task's own."""
    piece: Rectangle
    """The rectangle, counted from the chunk's corner."""
    first_column: int
    """The rectangle's first column in the source, where its factor begins."""


Uses = tuple[Chunk, list[ChunkCopy]]


class Visit(NamedTuple):
    """A chunk and its copies into the frames of one batch."""

    chunk: Chunk
    copies: tuple[ChunkCopy, ...]
    last: bool
    """The chunk is not needed after this."""


class Move(NamedTuple):
    """A batch with its chunks in the order in which they are used."""

    steps: tuple[Step, ...]
    visits: tuple[Visit, ...]
    is_unchanged: bool
    """The only step is made of whole rows of the only chunk, just as they are."""


def _move(steps: tuple[Step, ...], visits: tuple[Visit, ...]) -> Move:
    return Move(steps, visits, _is_unchanged(steps, visits))


def _is_unchanged(steps: Sequence[Step], visits: Sequence[Visit]) -> bool:
    copies = [copy for visit in visits for copy in visit.copies]
    if len(steps) != 1 or len(visits) != 1 or len(copies) != 1:
        return False
    step, chunk, copy = steps[0], visits[0].chunk, copies[0]
    is_whole = copy.piece.rows == step.rows and copy.piece.columns == step.columns == chunk.columns
    same = copy.part.factor is None and chunk.source.dtype == step.target.dtype and not step.target.transposed
    return is_whole and same


class TaskKind(NamedTuple):
    """What decides when a task comes. Those of a model are of far fewer kinds than layouts."""

    order: int
    passes_over: tuple[str, ...]
    """Names in the unit that the task was laid out for."""
    nbytes: int
    memory_bytes: int


@dataclass(frozen=True, eq=False)
class TaskLayout:
    """A task of any unit of one shape, laid out for the first of them: a model has as many such shapes as its layers
    have kinds of tensors, and to lay out the moves of one takes milliseconds."""

    moves: tuple[Move, ...]
    buffered: bool
    passes_over: tuple[TensorSource, ...] = ()
    order: int = 0

    @cached_property
    def kind(self) -> TaskKind:
        return TaskKind(self.order, tuple(source.name for source in self.passes_over), self.nbytes, self.memory_bytes)

    @cached_property
    def nbytes(self) -> int:
        return sum(step.nbytes for move in self.moves for step in move.steps)

    @cached_property
    def memory_bytes(self) -> int:
        held: dict[tuple[str, int, int], int] = {}
        peak = now = 0
        for move in self.moves:
            frames = sum(step.buffer_bytes for step in move.steps) if self.buffered else 0
            now += frames
            peak = max(peak, now)
            for visit in move.visits:
                if visit.chunk.key not in held:
                    held[visit.chunk.key] = visit.chunk.buffer_bytes
                    now += visit.chunk.buffer_bytes
                    peak = max(peak, now)
                if visit.last:
                    now -= held.pop(visit.chunk.key)
            now -= frames
        return peak


@dataclass(frozen=True, eq=False)
class Task:
    """Moves that one thread makes, from the first to the last."""

    layout: TaskLayout
    unit: "Counterparts"

    @property
    def moves(self) -> Iterator[Move]:
        """The moves of this unit, each made when its turn comes: there are tens of thousands in a run, and what is
        dropped soon never comes before the garbage collector."""
        return map(self.unit.move, self.layout.moves)

    @cached_property
    def passes_over(self) -> tuple[TensorSource, ...]:
        """The sources of which the task reads some columns, and other tasks the others."""
        return tuple(map(self.unit.source, self.layout.passes_over))

    @property
    def is_pass(self) -> bool:
        return bool(self.layout.passes_over)

    @property
    def buffered(self) -> bool:
        return self.layout.buffered

    @property
    def order(self) -> int:
        """Tasks with a smaller number come first."""
        return self.layout.order

    @property
    def nbytes(self) -> int:
        """The bytes that the task makes."""
        return self.layout.nbytes

    @property
    def memory_bytes(self) -> int:
        """The most memory that its chunks and frames take up at a time."""
        return self.layout.memory_bytes

    def part(self, copy: ChunkCopy) -> SourcePart:
        """The part whose bytes a copy of one of the moves is of."""
        return self.unit.part(copy.part)


class Counterparts:
    """What stands in a unit where something of another unit of the same shape stands in that."""

    def __init__(self, laid_out: Unit, own: Unit) -> None:
        self._targets: dict[int, Target] = {}
        self._blocks: dict[int, Block] = {}
        self._parts: dict[int, SourcePart] = {}
        self._sources: dict[str, TensorSource] = {}
        for their_target, target in zip(laid_out, own, strict=True):
            self._targets[id(their_target)] = target
            for their_block, block in zip(their_target.blocks, target.blocks, strict=True):
                self._blocks[id(their_block)] = block
                for theirs, part in zip(their_block.parts, block.parts, strict=True):
                    self._parts[id(theirs)] = part
                    self._sources[theirs.source.name] = part.source

    def source(self, theirs: TensorSource) -> TensorSource:
        return self._sources[theirs.name]

    def part(self, theirs: SourcePart) -> SourcePart:
        return self._parts[id(theirs)]

    def move(self, theirs: Move) -> Move:
        targets, blocks, sources = self._targets, self._blocks, self._sources
        # Tuples are unpacked, which takes half as long as asking for field after field.
        steps = tuple(
            [
                Step(targets[id(target)], blocks[id(block)], rank_index, row, rows, column, columns, cuts)
                for target, block, rank_index, row, rows, column, columns, cuts in theirs.steps
            ]
        )
        visits = tuple(
            [
                Visit(Chunk(sources[source.name], row, rows, column, columns), copies, last)
                for (source, row, rows, column, columns), copies, last in theirs.visits
            ]
        )
        return Move(steps, visits, theirs.is_unchanged)


@dataclass(frozen=True, eq=False)
class Workload:
    """What a run has to do: the plan's ranks at the indices in `ranks`. With `buffered` the frames are memory of the
    run, with `sealing` the files of some ranks are completed before those of others, and with `observed` every byte of
    every source is read, needed or not."""

    plan: StreamedPlan
    sizes: Sizes
    ranks: Sequence[int]
    buffered: bool = True
    sealing: bool = False
    observed: bool = False

    @cached_property
    def groups(self) -> Sequence[Group]:
        if self.sealing:
            return rank_groups(self.plan, self.ranks, self.sizes)
        return [self.ranks] if self.ranks else []

    @cached_property
    def units(self) -> Sequence["SimilarUnit"]:
        """The units of the plan, in their order."""
        return [_similar(unit) for unit in units(self.plan)]

    @cached_property
    def _laid_out(self) -> dict[tuple["SimilarUnit", int | None], "LaidOut"]:
        return {}

    @cached_property
    def _tied(self) -> dict["SimilarUnit", Set[int]]:
        return {}

    def tied(self, unit: "SimilarUnit") -> Set[int]:
        """The numbers of the groups that share parts of a unit."""
        if unit not in self._tied:
            self._tied[unit] = tied_groups(unit.targets, self.groups, self.sizes)
        return self._tied[unit]

    def laid_out(self, unit: "SimilarUnit", number: int | None) -> "LaidOut":
        """The tasks of the first unit of this shape: for the group of that number, which shares nothing of it with
        other groups, or for all groups that do, and for bytes that no group needs."""
        if (unit, number) not in self._laid_out:
            found = (
                self._shared(unit.targets, self.tied(unit))
                if number is None
                else unit_tasks(unit.targets, self.groups[number], self.sizes, self.buffered, order=number + 1)
            )
            self._laid_out[unit, number] = unit.targets, found
        return self._laid_out[unit, number]

    def _shared(self, unit: Unit, tied: Set[int]) -> list[TaskLayout]:
        ranks = [index for number in sorted(tied) for index in self.groups[number]]
        found = unit_tasks(unit, ranks, self.sizes, self.buffered) if ranks else []
        return [*found, *self._observed_alone(unit, found)] if self.observed else found

    def _observed_alone(self, unit: Unit, found: Iterable[TaskLayout]) -> Iterator[TaskLayout]:
        """Tasks for bytes that no rank needs; sources that are read in passes are read as a whole anyway."""
        in_passes = {source.name for task in found for source in task.passes_over}
        for source, first, end in unneeded_rows(unit, self.ranks):
            each, columns = _rows_within(source, self.sizes.chunk_bytes), as_matrix(source.shape)[1]
            for row in range(first, end, each) if source.name not in in_passes else ():
                chunk = Chunk(source, row, min(each, end - row), 0, columns)
                yield TaskLayout((_move((), (Visit(chunk, (), last=True),)),), self.buffered)


LaidOut = tuple[Unit, list[TaskLayout]]
"""The unit that tasks were laid out for, and these."""


def tasks(work: Workload) -> Iterator[list[Task]]:
    """The tasks of one unit after the other: first those that several groups of ranks share, then group after group."""
    for unit in work.units:
        if found := _own(unit, work.laid_out(unit, None)):
            yield found
    for number in range(len(work.groups)):
        for unit in work.units:
            if number not in work.tied(unit) and (found := _own(unit, work.laid_out(unit, number))):
                yield found


def _own(unit: "SimilarUnit", laid_out: LaidOut) -> list[Task]:
    first, found = laid_out
    counterparts = Counterparts(first, unit.targets)
    return [Task(layout, counterparts) for layout in found]


def most_memory(work: Workload, threads: int) -> int:
    """The memory of the largest tasks that may run at the same time."""
    largest: list[int] = []
    observed = 0
    for unit, count in Counter(work.units).items():
        found = list(work.laid_out(unit, None)[1])
        for number in range(len(work.groups)):
            if number not in work.tied(unit):
                found += work.laid_out(unit, number)[1]
        most = sorted(task.memory_bytes for task in found)[-threads:]
        largest += [nbytes for nbytes in most for _ in range(min(count, threads))]
        if work.observed:
            at_once = (buffer_size(observed_at_once(source)) for task in found for source in task.passes_over)
            observed = max([observed, *at_once])
    largest.sort()
    running = min(sum(largest[-threads:]), max(work.sizes.memory_bytes, largest[-1])) if largest else 0
    return running + observed


@dataclass(frozen=True, slots=True)
class SimilarUnit:
    """A unit that is equal to those of the same shape, mostly the same one of other layers, whose tasks have the same
    shape too."""

    shape: tuple[Hashable, ...]
    targets: Unit = field(compare=False)


def _similar(unit: Unit) -> SimilarUnit:
    """The shape of a unit. Tensors that are split in the same way share one split, so its identity is enough."""
    names: dict[str, int] = {}

    def describe(part: SourcePart) -> Hashable:
        number = names.setdefault(part.source.name, len(names))
        factor = part.factor and (part.factor.shape, part.factor.dtype)
        return id(part.split), number, part.source.shape, part.source.dtype, factor

    shape = tuple(
        (target.dtype, target.shape, target.transposed, block.at_row, *map(describe, block.parts))
        for target in unit
        for block in target.blocks
    )
    return SimilarUnit(shape, unit)


def unit_tasks(
    unit: Iterable[Target], ranks: Sequence[int], sizes: Sizes, buffered: bool, order: int = 0
) -> list[TaskLayout]:
    ordered = batches(unit, ranks, sizes, buffered)
    grids = _grids(ordered, sizes.chunk_bytes)
    visits = [list(_visits(batch, grids, sizes.chunk_bytes)) for batch in ordered]
    if not buffered:  # nothing has to be complete or in order: every chunk makes a task of its own
        ordered, visits = _chunk_by_chunk(ordered, visits)
    uses = Counter(chunk.key for of_batch in visits for chunk, _ in of_batch)
    groups = _connected(
        [
            [*(_tensor_keys(batch) if buffered else ()), *(chunk.key for chunk, _ in of_batch)]
            for batch, of_batch in zip(ordered, visits, strict=True)
        ]
    )
    return [
        TaskLayout(
            tuple(_move(ordered[i].steps, tuple(_with_last_use(visits[i], uses))) for i in group),
            buffered,
            tuple({part.source: None for i in group if ordered[i].in_passes for part in _parts(ordered[i])}),
            order,
        )
        for group in groups
    ]


def _chunk_by_chunk(ordered: Iterable[Batch], visits: Iterable[list[Uses]]) -> tuple[list[Batch], list[list[Uses]]]:
    pairs = [(batch, [use]) for batch, of_batch in zip(ordered, visits, strict=True) for use in of_batch]
    return [batch for batch, _ in pairs], [use for _, use in pairs]


def _parts(batch: Batch) -> Iterator[SourcePart]:
    return (part for step in batch.steps for part, _ in step.cuts)


def _tensor_keys(batch: Batch) -> Iterator[Hashable]:
    """The tensors of a batch: their earlier bytes have to come before the later ones."""
    return ((step.target.name, step.rank_index) for step in batch.steps)


def _with_last_use(visits: Iterable[Uses], uses: Counter[tuple[str, int, int]]) -> Iterator[Visit]:
    for chunk, copies in visits:
        uses[chunk.key] -= 1
        yield Visit(chunk, tuple(copies), last=not uses[chunk.key])


def _grids(ordered: Iterable[Batch], chunk_bytes: int) -> dict[str, list[int]]:
    """The rows at which the chunks of every source begin, and the end. Chunks are cut at the borders of rectangles, so
    that ranks share no chunk needlessly, and joined while a chunk stays small and no row of it is unneeded."""
    spans: dict[str, set[tuple[int, int]]] = defaultdict(set)
    sources: dict[str, TensorSource] = {}
    for batch in ordered:
        for step in batch.steps:
            for part, piece in step.cuts:
                sources[part.source.name] = part.source
                spans[part.source.name].add((piece.row, piece.row + piece.rows))
    return {name: _grid(spans[name], _rows_within(source, chunk_bytes)) for name, source in sources.items()}


def _rows_within(source: TensorSource, nbytes: int, columns: int | None = None) -> int:
    width = as_matrix(source.shape)[1] if columns is None else columns
    rows = max(1, nbytes * 8 // max(1, width * DTYPE_BITS[source.dtype]))
    return rows - rows % EVEN if rows > EVEN else rows


def _evenly(rows: int, each: int) -> int:
    """At least so many rows and at most `each`, in whole multiples of EVEN where those are."""
    return -(-rows // EVEN) * EVEN if each > EVEN else rows


def _grid(spans: Iterable[tuple[int, int]], each: int) -> list[int]:
    edges = sorted({edge for span in spans for edge in span})
    unneeded = dict(gaps(spans, start=edges[0]))
    grid = [edges[0]]
    for start, stop in pairwise(edges):
        if start in unneeded:  # a chunk of its own, which is never read
            grid += [start, stop] if grid[-1] != start else [stop]
            continue
        if stop - grid[-1] <= each and grid[-1] != start:
            continue  # joins what came before: `start` is no border
        if grid[-1] != start:
            grid.append(start)
        parts = -(-(stop - start) // each)
        step = -(-(stop - start) // parts)
        grid += range(start + _evenly(step, each), stop, _evenly(step, each))
    return [*grid, edges[-1]]


def _visits(batch: Batch, grids: dict[str, list[int]], chunk_bytes: int) -> Iterator[Uses]:
    extents = _extents(batch) if batch.in_passes else {}
    found: dict[tuple[str, int, int], tuple[Chunk, list[ChunkCopy]]] = {}
    for number, step in enumerate(batch.steps):
        for part, piece in step.cuts:
            extent = extents.get(part.source.name)
            chunks = (
                _grid_chunks(part.source, piece, grids) if extent is None else _pass_chunks(piece, extent, chunk_bytes)
            )
            for chunk in chunks:
                copies = found.setdefault(chunk.key, (chunk, []))[1]
                copies.append(_copy(number, part, piece, chunk))
    if len(batch.steps) > 1:
        return iter(sorted(found.values(), key=lambda each: each[0].key))
    return iter(found.values())


def _extents(batch: Batch) -> dict[str, Chunk]:
    """The rectangle that a pass needs of every source."""
    found: dict[str, Chunk] = {}
    for part, piece in (cut for step in batch.steps for cut in step.cuts):
        before = found.get(part.source.name, Chunk(part.source, piece.row, 0, piece.column, 0))
        row, column = min(before.row, piece.row), min(before.column, piece.column)
        rows = max(before.row + before.rows, piece.row + piece.rows) - row
        columns = max(before.column + before.columns, piece.column + piece.columns) - column
        found[part.source.name] = Chunk(part.source, row, rows, column, columns)
    return found


def _pass_chunks(piece: Rectangle, extent: Chunk, chunk_bytes: int) -> Iterator[Chunk]:
    each = _rows_within(extent.source, chunk_bytes, extent.columns)
    first = extent.row + (piece.row - extent.row) // each * each
    for row in range(first, piece.row + piece.rows, each):
        rows = min(each, extent.row + extent.rows - row)
        yield Chunk(extent.source, row, rows, extent.column, extent.columns)


def _grid_chunks(source: TensorSource, piece: Rectangle, grids: dict[str, list[int]]) -> Iterator[Chunk]:
    grid, width = grids[source.name], as_matrix(source.shape)[1]
    index = bisect_right(grid, piece.row) - 1
    while index < len(grid) - 1 and grid[index] < piece.row + piece.rows:
        yield Chunk(source, grid[index], grid[index + 1] - grid[index], 0, width)
        index += 1


def _copy(step: int, part: SourcePart, piece: Rectangle, chunk: Chunk) -> ChunkCopy:
    first, last = max(piece.row, chunk.row), min(piece.row + piece.rows, chunk.row + chunk.rows)
    in_chunk = Rectangle(
        row=first - chunk.row,
        rows=last - first,
        column=piece.column - chunk.column,
        columns=piece.columns,
        at_row=piece.at_row + first - piece.row,
        at_column=piece.at_column,
    )
    return ChunkCopy(step, part, in_chunk, piece.column)


def _connected(ties: Sequence[Iterable[Hashable]]) -> list[list[int]]:
    """The indices of `ties`, grouped so that no two groups have a tie in common; groups and indices are in order."""
    parent = list(range(len(ties)))

    def root(index: int) -> int:
        while parent[index] != index:
            parent[index] = parent[parent[index]]
            index = parent[index]
        return index

    first: dict[Hashable, int] = {}
    for index, each in enumerate(ties):
        for tie in each:
            one, other = root(first.setdefault(tie, index)), root(index)
            parent[max(one, other)] = min(one, other)
    groups: dict[int, list[int]] = defaultdict(list)
    for index in range(len(ties)):
        groups[root(index)].append(index)
    return list(groups.values())
