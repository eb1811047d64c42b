"""The definition of paged attention against the arithmetic written out in float64."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest

from helix_mlx.kernels.paged_attention import GatherRows, Stored, gather, gather_run, paged_attention


def written_out(queries, keys, values, lengths, scale, window, sinks):  # type: ignore[no-untyped-def]
    """Softmax over the seen positions, one query at a time; keys[b] is [positions, heads, dim]."""
    batch, heads, rows, _ = queries.shape
    out = np.zeros((batch, heads, rows, values[0].shape[-1]))
    for b in range(batch):
        for h in range(heads):
            group = h * keys[b].shape[1] // heads
            for i in range(rows):
                last = lengths[b] + i
                first = 0 if window is None else max(0, last - window + 1)
                scores = keys[b][first : last + 1, group] @ queries[b, h, i] * scale
                weights = np.exp(scores - scores.max())
                extra = 0.0 if sinks is None else np.exp(sinks[h] - scores.max())
                out[b, h, i] = weights @ values[b][first : last + 1, group] / (weights.sum() + extra)
    return out


@pytest.mark.parametrize("window", [None, 6])
@pytest.mark.parametrize("with_sinks", [False, True])
def test_equals_the_arithmetic_written_out(window: int | None, with_sinks: bool) -> None:
    rng = np.random.default_rng(0)
    page, slots, rows, lengths, committed = 4, 9, 3, [9, 2, 16], [8, 0, 12]
    keys, values = ([rng.normal(size=(n + rows, 2, 8)).astype(np.float32) for n in lengths] for _ in range(2))
    queries = rng.normal(size=(3, 4, rows, 8)).astype(np.float32)
    sinks = rng.normal(size=4).astype(np.float32) if with_sinks else None
    pools, tails = [], []
    tables = [[5, 2], [], [7, 1, 3]]
    for held in (keys, values):
        pool, tail = np.full((9, page, 2, 8), 7.0, np.float32), np.full((3, slots, 2, 8), 7.0, np.float32)
        pool[0] = 0
        for b, text in enumerate(held):
            for index, number in enumerate(tables[b]):
                pool[number] = text[index * page : (index + 1) * page]
            tail[b, : len(text) - committed[b]] = text[committed[b] :]
        pools.append(mx.array(pool.swapaxes(1, 2)))
        tails.append(mx.array(tail))
    table = mx.array([t + [0] * (6 - len(t)) for t in tables])
    stored = Stored((pools[0], pools[1]), table, mx.array(committed), (tails[0], tails[1]), mx.array(lengths))
    extra = None if sinks is None else mx.array(sinks)
    got = paged_attention(mx.array(queries), stored, scale=0.3, window=window, sinks=extra)
    expected = written_out(queries, keys, values, lengths, 0.3, window, sinks)
    np.testing.assert_allclose(np.array(got), expected, rtol=1e-5, atol=1e-5)


def test_a_run_reads_the_same_as_its_block_table() -> None:
    pages = mx.random.normal((10, 2, 4, 8))
    tail = mx.random.normal((1, 9, 2, 8))
    rows = GatherRows.of(mx.array([[3, 4, 5, 0, 0, 0]]), mx.array([12]), slots=9, page_size=4, heads=2)
    by_table = gather(pages, rows, tail, 17)
    assert mx.array_equal(by_table, gather_run(pages, (3, 3), tail, 17))
