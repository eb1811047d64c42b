"""What a model sees of pages and tail is, bit for bit, what it sees of a contiguous cache."""

from __future__ import annotations

import gc
import weakref
from typing import Any
from unittest.mock import Mock

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm.models.cache import make_prompt_cache

from helix_mlx.models.loader import LoadedModel
from helix_mlx.paging import paged_cache
from helix_mlx.paging.block_table import BlockTable
from helix_mlx.paging.page_pool import TARGET, PagePool
from helix_mlx.paging.paged_cache import PagedCache, PagedKV, commit
from tests.support import address, prompt, random_model

PAGE = 8
SLOTS = PAGE + 16


@pytest.fixture(scope="module")
def llama() -> LoadedModel:
    return random_model("llama")


def pool_for(loaded: LoadedModel, pages: int = 64) -> PagePool:
    return PagePool([loaded.layers], PAGE, pages, layouts=[loaded.layout])


def forward(loaded: LoadedModel, kv: PagedKV, rows: list[list[int]], lengths: list[int], spare: int = 0) -> mx.array:
    limit = max(lengths) + len(rows[0]) + spare
    exact = not spare and min(lengths) == max(lengths)
    return loaded.model(mx.array(rows), cache=kv.caches(mx.array(lengths, mx.int32), limit, exact))


def contiguous(loaded: LoadedModel, tokens: list[int]) -> mx.array:
    model: Any = loaded.model
    return model(mx.array([tokens]), cache=make_prompt_cache(model))


def test_a_pass_leaves_nothing_for_the_collector_of_garbage(llama: LoadedModel) -> None:
    """What it holds are arrays, and Python does not know how large they are."""
    pool = pool_for(llama)
    kv = PagedKV.empty(pool, TARGET, BlockTable(pool.allocator), SLOTS)
    gc.disable()
    try:
        (first, *rest) = kv.caches(mx.array([0], mx.int32), 1)
        assert isinstance(first, PagedCache)
        view = weakref.ref(first._view)
        del first, rest
        assert view() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("spare", [0, 5])
def test_growing_and_rolling_back_equals_a_contiguous_cache(llama: LoadedModel, spare: int) -> None:
    """Write up to 8 rows, keep some of them, commit what is due; every row's logits are the contiguous ones."""
    rng = np.random.default_rng(1)
    pool = pool_for(llama)
    kv = PagedKV.empty(pool, TARGET, BlockTable(pool.allocator), SLOTS)
    tokens = prompt(120)
    expected = contiguous(llama, tokens)
    length = 0
    while length + 8 < len(tokens):
        rows = int(rng.integers(1, 9))
        logits = forward(llama, kv, [tokens[length : length + rows]], [length], spare)
        assert mx.array_equal(logits[0], expected[0, length : length + rows])
        length += int(rng.integers(1, rows + 1))
        commit([kv], [[length - 1]])
    assert kv.committed[0] >= 96


def test_a_ragged_batch_equals_each_sequence_alone(llama: LoadedModel) -> None:
    pool = pool_for(llama)
    texts = [prompt(90, seed) for seed in range(4)]
    expected = [contiguous(llama, text) for text in texts]
    lengths = [3, 21, 8, 40]
    parts = []
    for text, length in zip(texts, lengths, strict=True):
        part = PagedKV.empty(pool, TARGET, BlockTable(pool.allocator), SLOTS)
        for start in range(0, length, 8):
            mx.eval(forward(llama, part, [text[start : min(start + 8, length)]], [start]))
            commit([part], [[min(start + 8, length)]])
        parts.append(part)
    kv = PagedKV.concatenate(parts)
    rng = np.random.default_rng(2)
    for _ in range(12):
        rows = [text[n : n + 5] for text, n in zip(texts, lengths, strict=True)]
        logits = forward(llama, kv, rows, lengths)
        for b, n in enumerate(lengths):
            assert mx.array_equal(logits[b], expected[b][0, n : n + 5])
        lengths = [n + int(rng.integers(1, 5)) for n in lengths]
        commit([kv], [[n - 1 for n in lengths]])
    kv = kv.take([3, 1])
    logits = forward(llama, kv, [texts[3][lengths[3] :][:2], texts[1][lengths[1] :][:2]], [lengths[3], lengths[1]])
    assert mx.array_equal(logits[0], expected[3][0, lengths[3] : lengths[3] + 2])
    assert mx.array_equal(logits[1], expected[1][0, lengths[1] : lengths[1] + 2])


def test_pages_that_are_found_are_not_read_again(llama: LoadedModel) -> None:
    """A second sequence over the first one's pages goes on from them with a tail of its own."""
    pool = pool_for(llama)
    kv = PagedKV.empty(pool, TARGET, BlockTable(pool.allocator), SLOTS)
    old, new = prompt(40, 1), prompt(40, 1)[:21] + prompt(19, 2)
    for start in range(0, 40, 8):
        mx.eval(forward(llama, kv, [old[start : start + 8]], [start]))
        commit([kv], [[start + 8]])
    table = BlockTable(pool.allocator)
    table.adopt(kv.tables[0].pages[: 16 // pool.page_size])
    second = PagedKV.empty(pool, TARGET, table, SLOTS)
    second.found(16 // pool.page_size)
    logits = forward(llama, second, [new[16:24]], [16])
    assert mx.array_equal(logits[0], contiguous(llama, new)[0, 16:24])


def test_a_fork_goes_its_own_way(llama: LoadedModel) -> None:
    """Both share the pages, and neither sees what the other writes into its tail."""
    pool = pool_for(llama)
    kv = PagedKV.empty(pool, TARGET, BlockTable(pool.allocator), SLOTS)
    texts = [prompt(20, 1) + prompt(20, 2), prompt(20, 1) + prompt(20, 3)]
    for start in range(0, 20, 4):
        mx.eval(forward(llama, kv, [texts[0][start : start + 4]], [start]))
        commit([kv], [[start + 4]])
    both = [kv, kv.fork(kv.tables[0].fork())]
    for start in range(20, 40, 4):
        for each, text in zip(both, texts, strict=True):
            logits = forward(llama, each, [text[start : start + 4]], [start])
            assert mx.array_equal(logits[0], contiguous(llama, text)[0, start : start + 4])
        for each in both:
            commit([each], [[start + 4]])
    assert [each.tables[0].pages[0] for each in both] == [kv.tables[0].pages[0]] * 2
    assert both[0].tables[0].pages[-1] != both[1].tables[0].pages[-1]


def test_commits_are_in_place(llama: LoadedModel) -> None:
    """A thousand commits, and every array of the pool lies where it lay."""
    pool = pool_for(llama, pages=1100)
    arrays = list(pool.keys[TARGET] + pool.values[TARGET])
    before = [address(a) for a in arrays]
    del arrays
    kv = PagedKV.empty(pool, TARGET, BlockTable(pool.allocator), SLOTS)
    written = 0
    length = 0
    while written < 1000:
        rows = [[1] * 8]
        mx.eval(forward(llama, kv, rows, [length]))
        length += 8
        written += commit([kv], [[length - 1]])
        if length > 200:
            kv.tables[0].truncate(0)
            kv, length = PagedKV.empty(pool, TARGET, kv.tables[0], SLOTS), 0
    assert [address(a) for a in pool.keys[TARGET] + pool.values[TARGET]] == before


def test_padding_never_reads_another_sequences_memory(llama: LoadedModel) -> None:
    """Pages of other sequences hold values that would spoil anything they touch."""
    pool = pool_for(llama)
    for arrays in (pool.keys[TARGET], pool.values[TARGET]):
        for array in arrays:
            array[1:] = mx.full(array[1:].shape, mx.nan)
    mx.eval(pool.keys, pool.values)
    parts = [PagedKV.empty(pool, TARGET, BlockTable(pool.allocator), SLOTS) for _ in range(2)]
    text = prompt(20)
    for start in range(0, 16, 8):
        mx.eval(forward(llama, parts[0], [text[start : start + 8]], [start]))
        commit([parts[0]], [[start + 8]])
    logits = forward(llama, PagedKV.concatenate(parts), [text[16:18], text[:2]], [16, 0])
    assert mx.array_equal(logits[0], contiguous(llama, text)[0, 16:18])
    assert mx.array_equal(logits[1], contiguous(llama, text)[0, :2])


@pytest.mark.parametrize("cpu", [True, False])
def test_a_cpu_begins_a_pass_before_it_is_built_whole(
    llama: LoadedModel, cpu: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At every layer but the first; elsewhere a pass is left whole."""
    monkeypatch.setattr(paged_cache, "on_cpu", lambda: cpu)
    begun = Mock(wraps=mx.async_eval)
    monkeypatch.setattr(mx, "async_eval", begun)
    pool = pool_for(llama)
    kv = PagedKV.empty(pool, TARGET, BlockTable(pool.allocator), SLOTS)
    logits = forward(llama, kv, [prompt(5)], [0])
    assert begun.call_count == (len(llama.layers) - 1 if cpu else 0)
    assert mx.array_equal(logits, contiguous(llama, prompt(5)))
