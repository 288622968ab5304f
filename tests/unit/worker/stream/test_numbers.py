"""Casts and products against PyTorch's own, over every 16-bit pattern and hard float32 values; copies of any shape."""

import shutil
import subprocess
import threading
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from neuronmodel_worker.stream import native, transpose
from neuronmodel_worker.stream.casting import fill
from neuronmodel_worker.stream.dtypes import STORAGE, VALUES

TORCH = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32, "F64": torch.float64}
TARGETS = ["BF16", "F16", "F32"]


def hard_values(dtype: str) -> NDArray[Any]:
    """Every pattern of a 16-bit type; of the wider ones random patterns and those around halfway between two
    16-bit values, where rounding shows."""
    every = np.arange(65536, dtype=np.uint16)
    if dtype in ("BF16", "F16"):
        return every.view(STORAGE[dtype]).reshape(256, 256)
    words = np.random.default_rng(7).integers(0, 2**32, 65536, np.uint32)
    halves = (every.astype(np.uint32) << 16)[:, None] + np.array([0x7FFF, 0x8000, 0x8001, 0x1000], np.uint32)
    singles = np.concatenate([words, halves.ravel()]).view(np.float32)
    with np.errstate(invalid="ignore"):
        return singles.astype(STORAGE[dtype]).reshape(-1, 256)


def as_torch(values: NDArray[Any], dtype: str) -> torch.Tensor:
    return torch.from_numpy(values).view(TORCH[dtype])


def assert_same(found: NDArray[Any], expected: torch.Tensor, dtype: str) -> None:
    """Bit for bit, but for the payload of what is not a number."""
    ours = as_torch(found, dtype)
    assert torch.equal(torch.isnan(ours), torch.isnan(expected))
    number = ~torch.isnan(expected)
    integer = torch.int32 if dtype == "F32" else torch.int16
    assert torch.equal(ours[number].view(integer), expected[number].view(integer))


@pytest.mark.parametrize(("source", "target"), list(product(TORCH, TARGETS)))
@pytest.mark.parametrize("transposed", [False, True])
def test_casts_round_as_pytorch_does(source: str, target: str, transposed: bool) -> None:
    values = hard_values(source)
    stored = np.empty(values.shape[::-1] if transposed else values.shape, STORAGE[target])
    fill(stored.T if transposed else stored, target, values, source)
    expected = as_torch(values, source).to(TORCH[target])
    assert_same(stored, expected.T.contiguous() if transposed else expected, target)


@pytest.mark.parametrize(("weight", "gamma", "target"), list(product(TORCH, TORCH, TARGETS)))
def test_products_have_pytorchs_promoted_type(weight: str, gamma: str, target: str) -> None:
    values = hard_values(weight)
    factor = np.ascontiguousarray(hard_values(gamma).reshape(-1)[1 :: len(hard_values(gamma))][: values.shape[1]])
    stored = np.empty(values.shape, STORAGE[target])
    fill(stored, target, values, weight, (factor, gamma))
    expected = (as_torch(values, weight) * as_torch(factor, gamma)).to(TORCH[target])
    assert_same(stored, expected, target)


@pytest.mark.parametrize("transposed", [False, True])
def test_products_of_many_blocks_take_each_columns_own_factor(transposed: bool) -> None:
    values = np.tile(hard_values("BF16"), (3, 4))
    factor = np.random.default_rng(5).standard_normal((values.shape[1],)).astype(VALUES["BF16"]).view(np.uint16)
    stored = np.empty(values.shape[::-1] if transposed else values.shape, np.uint16)
    fill(stored.T if transposed else stored, "BF16", values, "BF16", (factor, "BF16"))
    expected = as_torch(values, "BF16") * as_torch(factor, "BF16")
    assert_same(stored, expected.T.contiguous() if transposed else expected, "BF16")


def from_a_file(words: NDArray[Any], dtype: str, row: int, column: int, pitch: int, shift: int) -> NDArray[Any]:
    """The matrix `words` as it is seen in a chunk of a file: within wider rows, at any address."""
    rows, columns = words.shape
    itemsize = STORAGE[dtype].itemsize
    raw = np.full(((row + rows) * (column + columns + pitch)) * itemsize + shift, 0xA5, np.uint8)
    chunk = np.frombuffer(raw.data, STORAGE[dtype], offset=shift).reshape(row + rows, -1)
    seen = chunk[row:, column : column + columns]
    seen[:] = words.view(STORAGE[dtype])
    return seen


SIDES = st.one_of(st.integers(1, 40), st.integers(41, 700), st.sampled_from([1024, 1025, 2048, 2051, 3000]))


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_fill_does_what_its_naive_definition_does(data: st.DataObject) -> None:
    draw = data.draw
    columns = draw(SIDES)
    rows = min(draw(SIDES), 300_000 // columns)
    source_dtype, dtype = draw(st.sampled_from([*TORCH])), draw(st.sampled_from(TARGETS))
    dtype = draw(st.sampled_from([dtype, source_dtype])) if source_dtype != "F64" else dtype
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    scale: NDArray[Any] = np.logspace(-6, 4, columns)
    values = (rng.standard_normal((rows, columns)) * scale).astype(VALUES[source_dtype])
    source = from_a_file(
        values.view(STORAGE[source_dtype]),
        source_dtype,
        draw(st.integers(0, 3)),
        draw(st.integers(0, 9)),
        draw(st.sampled_from([0, 1, 5, (-columns) % 2048])),
        draw(st.integers(0, 9)),
    )
    factor_dtype = draw(st.sampled_from([None, *TORCH]))
    expected = as_torch(values.view(STORAGE[source_dtype]), source_dtype)
    factor = None
    if factor_dtype is not None:
        vector = rng.standard_normal((columns,)).astype(VALUES[factor_dtype]).view(STORAGE[factor_dtype])
        factor = vector, factor_dtype
        expected = expected * as_torch(vector, factor_dtype)
    before, after = draw(st.integers(0, 5)), draw(st.integers(0, 5))
    transposed = draw(st.booleans())
    whole = np.full((columns if transposed else rows, before + (rows if transposed else columns) + after), 7).astype(
        STORAGE[dtype]
    )
    piece = whole[:, before : whole.shape[1] - after]
    fill(piece.T if transposed else piece, dtype, source, source_dtype, factor)
    expected = expected.to(TORCH[dtype])
    assert_same(np.ascontiguousarray(piece), expected.T.contiguous() if transposed else expected, dtype)
    assert (whole[:, :before] == 7).all()
    assert (whole[:, whole.shape[1] - after :] == 7).all()


@pytest.mark.parametrize("by_library", [True, False])
@pytest.mark.parametrize("dtype", ["BF16", "F16", "F32"])
@pytest.mark.parametrize("shape", [(832, 2048), (1100, 331), (33, 5001), (4096, 33), (0, 50), (50, 0)])
def test_a_transposed_copy_keeps_every_bit(
    dtype: str, shape: tuple[int, int], by_library: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not by_library:
        monkeypatch.setattr(native, "transposed_copy", None)
    words = np.random.default_rng(3).integers(0, 256, (shape[0], shape[1] * STORAGE[dtype].itemsize), np.uint8)
    source = words.view(STORAGE[dtype]).reshape(shape)
    stored = np.zeros(shape[::-1], STORAGE[dtype])
    fill(stored.T, dtype, source, dtype)
    assert stored.tobytes() == source.T.tobytes()


def test_threads_do_not_share_what_they_compute_in() -> None:
    sources = [np.random.default_rng(seed).integers(0, 65536, (600, 1500), np.uint16) for seed in range(4)]
    stored = [np.zeros((1500, 600), np.uint16) for _ in sources]
    start = threading.Barrier(len(sources))

    def copy(number: int) -> None:
        start.wait()
        for _ in range(20):
            fill(stored[number].T, "BF16", sources[number], "BF16")

    threads = [threading.Thread(target=copy, args=(number,)) for number in range(len(sources))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all((one == other.T).all() for one, other in zip(stored, sources, strict=True))


@pytest.mark.parametrize(("length", "most", "multiple"), [(1, 32, 32), (832, 300, 32), (1000, 70, 8), (64, 64, 32)])
def test_spans_cover_everything_once_and_are_no_longer_than_asked(length: int, most: int, multiple: int) -> None:
    spans = list(transpose.spans(length, most, multiple))
    assert [place for span in spans for place in range(span.start, span.stop)] == list(range(length))
    assert all(span.stop - span.start <= most for span in spans)


# The native library.


def test_it_is_there_where_a_compiler_is() -> None:
    assert native.LIBRARY.exists() or not any(map(shutil.which, ("cc", "gcc", "clang")))
    assert (native.transposed_copy is not None) == native.LIBRARY.exists()


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_it_writes_the_transposed_matrix_and_nothing_beside_it(data: st.DataObject) -> None:
    if native.transposed_copy is None:
        pytest.skip("no library was compiled")
    draw, dtype = data.draw, data.draw(st.sampled_from(["BF16", "F32"]))
    columns = draw(SIDES)
    rows = min(draw(SIDES), 300_000 // columns)
    words = np.random.default_rng(draw(st.integers(0, 2**32))).integers(
        0, 256, (rows, columns * STORAGE[dtype].itemsize), np.uint8
    )
    source = from_a_file(
        words.view(STORAGE[dtype]).reshape(rows, columns), dtype, draw(st.integers(0, 3)), 0, draw(st.integers(0, 9)), 0
    )
    before, after = draw(st.integers(0, 40)), draw(st.sampled_from([0, 1, 33, 4096]))
    whole = np.full((columns, before + rows + after), 7, STORAGE[dtype])
    stored = whole[:, before : before + rows]
    native.transposed_copy(stored, source)
    assert stored.tobytes() == source.T.tobytes()
    assert (whole[:, :before] == 7).all()
    assert (whole[:, before + rows :] == 7).all()


def test_numpy_does_without_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert native.load(tmp_path / "missing.so") is None
    (tmp_path / "broken.so").write_bytes(b"no library")
    assert native.load(tmp_path / "broken.so") is None
    monkeypatch.setenv(native.SWITCH, "off")
    assert native.load(native.LIBRARY) is None


def test_a_library_that_does_something_else_is_not_used(tmp_path: Path) -> None:
    if not shutil.which("cc"):
        pytest.skip("there is no C compiler")
    functions = "".join(f"void neuronmodel_transpose_{size}(void) {{}}\n" for size in native.ITEM_SIZES)
    (tmp_path / "other.c").write_text(functions)
    subprocess.run(["cc", "-shared", "-fPIC", "-o", tmp_path / "other.so", tmp_path / "other.c"], check=True)
    assert native.load(tmp_path / "other.so") is None
