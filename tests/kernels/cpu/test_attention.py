"""Attention by our own kernel: right, and the same bit by bit however its keys, rows and work are laid out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from helix_mlx.kernels.cpu.attention import paged_attention
from helix_mlx.kernels.cpu.library import CpuLibrary
from helix_mlx.kernels.paged_attention import Stored
from helix_mlx.kernels.paged_attention import paged_attention as definition
from tests.kernels.test_paged_attention import written_out

FORMS = ("portable", "avx2", "avx512", "neon")
SCALE = 0.3


@pytest.fixture(autouse=True)
def as_it_was(cpu_library: CpuLibrary) -> Iterator[None]:
    yield
    cpu_library.set_threads(None)
    cpu_library.module.set_isa("auto")


@dataclass
class Texts:
    """What sequences have read: queries [heads, positions, dim], keys and values [positions, kv_heads, dim] each."""

    queries: list[np.ndarray]
    keys: list[np.ndarray]
    values: list[np.ndarray]

    @classmethod
    def random(
        cls, lengths: list[int], heads: int = 4, kv_heads: int = 2, dim: int = 8, value_dim: int = 8, seed: int = 0
    ) -> Texts:
        rng = np.random.default_rng(seed)

        def normal(*shape: int) -> np.ndarray:
            return rng.normal(size=shape).astype(np.float32)

        return cls(
            [normal(heads, n, dim) for n in lengths],
            [normal(n, kv_heads, dim) for n in lengths],
            [normal(n, kv_heads, value_dim) for n in lengths],
        )

    def stored(
        self, ends: list[int], page: int, committed: list[int], rows: int, spare: int = 0, seed: int = 0
    ) -> Stored:
        """The first `ends[b]` positions of each text, the last `rows` of them being those of this pass.

        Whatever belongs to nobody is NaN. `spare` slots and columns are added to the tail and to the block table.
        """
        assert all(done % page == 0 for done in committed)
        slots = max(end - done for end, done in zip(ends, committed, strict=True)) + spare
        counts = [done // page for done in committed]
        numbers = np.random.default_rng(seed).permutation(sum(counts) + 3) + 1
        tables = np.split(numbers, np.cumsum(counts))[: len(ends)]
        width = max(counts) - -slots // page + spare
        both: list[Any] = []
        for held in (self.keys, self.values):
            pool = np.full((len(numbers) + 1, page, *held[0].shape[1:]), np.nan, np.float32)
            tail = np.full((len(ends), slots, *held[0].shape[1:]), np.nan, np.float32)
            for b, text in enumerate(held):
                pool[tables[b]] = text[: committed[b]].reshape(-1, page, *text.shape[1:])
                tail[b, : ends[b] - committed[b]] = text[committed[b] : ends[b]]
            both.append((mx.array(pool.swapaxes(1, 2)), mx.array(tail)))
        table = np.stack([np.pad(t, (0, width - len(t))) for t in tables]).astype(np.int32)
        lengths = mx.array([end - rows for end in ends], mx.int32)
        pages, tails = zip(*both, strict=True)
        return Stored(pages, mx.array(table), mx.array(committed, mx.int32), tails, lengths)

    def rows(self, ends: list[int], rows: int) -> mx.array:
        return mx.array(np.stack([q[:, end - rows : end] for q, end in zip(self.queries, ends, strict=True)]))


def by_row(library: CpuLibrary, texts: Texts, count: int, **settings: Any) -> list[np.ndarray]:
    """Every row of a text by itself, with all positions in the tail: [heads, value_dim] a position."""
    out = [
        paged_attention(
            library, texts.rows([end], 1), texts.stored([end], 1, [0], 1), scale=SCALE, **settings
        )[0, :, 0]
        for end in range(1, count + 1)
    ]  # fmt: skip
    mx.eval(out)
    return [np.array(row) for row in out]


def extras(window: int | None, with_sinks: bool, heads: int = 4) -> dict[str, Any]:
    sinks = mx.array(np.random.default_rng(9).normal(size=heads).astype(np.float32)) if with_sinks else None
    return {"window": window, "sinks": sinks}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("window", [None, 37])
@pytest.mark.parametrize("with_sinks", [False, True])
@pytest.mark.parametrize(("heads", "kv_heads", "dim", "value_dim"), [(4, 2, 8, 8), (6, 6, 64, 64), (10, 1, 80, 128)])
def test_is_right_to_float32_rounding(
    cpu_library: CpuLibrary,
    form: str,
    window: int | None,
    with_sinks: bool,
    heads: int,
    kv_heads: int,
    dim: int,
    value_dim: int,
) -> None:
    """Against float64, in every form that this processor runs."""
    if not cpu_library.module.set_isa(form):
        pytest.skip(f"this processor does not run {form}")
    texts = Texts.random([600, 5, 300], heads, kv_heads, dim, value_dim)
    ends, rows = [600, 5, 290], 3
    stored = texts.stored(ends, 4, [596, 0, 276], rows, spare=2)
    queries = texts.rows(ends, rows)
    settings = extras(window, with_sinks, heads)
    got = np.array(paged_attention(cpu_library, queries, stored, scale=SCALE, **settings))
    sinks = None if settings["sinks"] is None else np.array(settings["sinks"], np.float64)
    wide = [[a.astype(np.float64) for a in held] for held in (texts.keys, texts.values)]
    lengths = [end - rows for end in ends]
    expected = written_out(np.array(queries, np.float64), wide[0], wide[1], lengths, SCALE, window, sinks)
    assert got.shape == expected.shape
    np.testing.assert_allclose(got, expected, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("window", [None, 5, 300])
@pytest.mark.parametrize("with_sinks", [False, True])
def test_every_split_into_pages_and_tail_gives_the_same_bits(
    cpu_library: CpuLibrary, window: int | None, with_sinks: bool
) -> None:
    texts = Texts.random([300], seed=1)
    settings = extras(window, with_sinks)
    expected = by_row(cpu_library, texts, 300, **settings)
    for page in (1, 2, 3, 5, 8, 16, 64):
        for end in (7, 61, 256, 257, 290):
            committed = range(0, end, page) if end < 64 else range(0, end, 7 * page)
            for done in committed:
                rows = min(end, 1 + done % 8)
                stored = texts.stored([end], page, [done], rows, spare=done % 3)
                got = paged_attention(cpu_library, texts.rows([end], rows), stored, scale=SCALE, **settings)
                for i, row in enumerate(np.array(got)[0].swapaxes(0, 1)):
                    assert np.array_equal(row, expected[end - rows + i]), (page, end, done, i)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("window", "with_sinks"), [(None, False), (21, True)])
def test_rows_batch_and_threads_make_no_difference(
    cpu_library: CpuLibrary, form: str, window: int | None, with_sinks: bool
) -> None:
    """Ragged batches of 1 to 5 with 1 to 8 rows each, on one thread and on two."""
    if not cpu_library.module.set_isa(form):
        pytest.skip(f"this processor does not run {form}")
    counts = [90, 8, 40, 270, 19]
    texts = Texts.random(counts, seed=2)
    settings = extras(window, with_sinks)
    expected = [
        by_row(cpu_library, Texts([q], [k], [v]), count, **settings)
        for q, k, v, count in zip(texts.queries, texts.keys, texts.values, counts, strict=True)
    ]
    for threads in (1, 2):
        cpu_library.set_threads(threads)
        for batch in range(1, 6):
            part = Texts(texts.queries[:batch], texts.keys[:batch], texts.values[:batch])
            for rows in range(1, 9):
                ends = [max(rows, count - rows) for count in counts[:batch]]
                stored = part.stored(ends, 4, [(end - rows) // 4 * 4 for end in ends], rows, seed=rows)
                got = np.array(paged_attention(cpu_library, part.rows(ends, rows), stored, scale=SCALE, **settings))
                for b, end in enumerate(ends):
                    for i in range(rows):
                        assert np.array_equal(got[b, :, i], expected[b][end - rows + i]), (threads, batch, rows, b, i)


@pytest.mark.parametrize("heads", [(8, 1), (32, 4), (3, 3)])
@pytest.mark.parametrize("window", [None, 700])
def test_sharing_long_work_between_threads_makes_no_difference(
    cpu_library: CpuLibrary, heads: tuple[int, int], window: int | None
) -> None:
    """Long enough that spans are shared out where there are few heads; and a prefill's many rows."""
    texts = Texts.random([1500], heads[0], heads[1], 32, 32, seed=3)
    found = []
    for threads in (1, 2, 3):
        cpu_library.set_threads(threads)
        one = paged_attention(
            cpu_library, texts.rows([1490], 1), texts.stored([1490], 16, [1488], 1), scale=SCALE, window=window
        )
        five = paged_attention(
            cpu_library, texts.rows([1492], 5), texts.stored([1492], 8, [1480], 5), scale=SCALE, window=window
        )
        many = paged_attention(
            cpu_library, texts.rows([1500], 311), texts.stored([1500], 64, [1152], 311), scale=SCALE, window=window
        )
        found += [one[:, :, 0], five[:, :, 2], many[:, :, -11]]
    assert all(mx.array_equal(row, found[0]).item() for row in found)


@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16])
def test_narrower_types_are_read_and_written(cpu_library: CpuLibrary, dtype: mx.Dtype) -> None:
    """The arithmetic is float32: only the inputs and the result are rounded."""
    texts = Texts.random([80], seed=4)
    stored = texts.stored([80], 8, [64], 3)
    pages, tail = ((a.astype(dtype), b.astype(dtype)) for a, b in (stored.pages, stored.tail))
    queries = texts.rows([80], 3).astype(dtype)
    narrow = Stored(pages, stored.block_table, stored.committed, tail, stored.lengths)
    wide = Stored(
        (pages[0].astype(mx.float32), pages[1].astype(mx.float32)),
        stored.block_table,
        stored.committed,
        (tail[0].astype(mx.float32), tail[1].astype(mx.float32)),
        stored.lengths,
    )
    got = paged_attention(cpu_library, queries, narrow, scale=SCALE)
    assert got.dtype == dtype
    expected = paged_attention(cpu_library, queries.astype(mx.float32), wide, scale=SCALE)
    assert mx.array_equal(got, expected.astype(dtype))


def test_strides_make_no_difference(cpu_library: CpuLibrary) -> None:
    """Queries as a model makes them, [B, M, heads, dim] turned round, and a tail that is part of a larger array."""
    texts = Texts.random([50, 30], seed=5)
    ends, rows = [50, 30], 4
    stored = texts.stored(ends, 4, [40, 24], rows)
    queries = texts.rows(ends, rows)
    expected = paged_attention(cpu_library, queries, stored, scale=SCALE)
    turned = mx.contiguous(queries.transpose(0, 2, 1, 3)).transpose(0, 2, 1, 3)
    large = [mx.concatenate([t, t], axis=1) for t in stored.tail]
    tail = large[0][:, : stored.tail[0].shape[1]], large[1][:, : stored.tail[1].shape[1]]
    table = mx.concatenate([stored.block_table, stored.block_table], axis=1)[:, : stored.block_table.shape[1]]
    other = Stored(stored.pages, table, stored.committed, tail, stored.lengths)
    got = paged_attention(cpu_library, turned, other, scale=SCALE)
    assert mx.array_equal(got, expected)
    # What comes out lies row by row; whoever reads it otherwise has to see the same.
    joined = got.transpose(0, 2, 1, 3).reshape(2, rows, -1)
    assert mx.array_equal(joined, mx.contiguous(expected).transpose(0, 2, 1, 3).reshape(2, rows, -1))
    assert mx.array_equal(mx.contiguous(got) * 2, got + got)
    np.testing.assert_array_equal(np.array(got), np.array(mx.contiguous(got)))


def test_agrees_with_the_definition(cpu_library: CpuLibrary) -> None:
    texts = Texts.random([70, 9], seed=6)
    stored = texts.stored([70, 9], 4, [64, 8], 2)
    # The definition multiplies what is masked by zero, so it wants numbers everywhere.
    clean = [tuple(mx.where(mx.isnan(a), 0, a) for a in pair) for pair in (stored.pages, stored.tail)]
    pages, tail = (clean[0][0], clean[0][1]), (clean[1][0], clean[1][1])
    stored = Stored(pages, stored.block_table, stored.committed, tail, stored.lengths)
    queries = texts.rows([70, 9], 2)
    for settings in (extras(None, False), extras(6, True)):
        got = paged_attention(cpu_library, queries, stored, scale=SCALE, **settings)
        expected = definition(queries, stored, scale=SCALE, **settings)
        np.testing.assert_allclose(np.array(got), np.array(expected), rtol=1e-5, atol=1e-6)


def test_what_does_not_fit_is_refused(cpu_library: CpuLibrary) -> None:
    texts = Texts.random([20])
    stored, queries = texts.stored([20], 4, [16], 2), texts.rows([20], 2)
    for wrong in (queries[:, :3], queries[..., :4], queries[0], queries.astype(mx.int32), queries.astype(mx.float16)):
        with pytest.raises(ValueError, match=r"differ|fit|batch|neither"):
            paged_attention(cpu_library, wrong, stored, scale=SCALE)
    with pytest.raises(ValueError, match="window"):
        paged_attention(cpu_library, queries, stored, scale=SCALE, window=0)
    with pytest.raises(ValueError, match="sink"):
        paged_attention(cpu_library, queries, stored, scale=SCALE, sinks=mx.zeros((3,)))
