"""A pool that grows: what is in it stays, where it is known by its number, and pages are still written in place."""

from __future__ import annotations

import mlx.core as mx
import numpy as np

from helix_mlx.paging.block_table import BlockTable
from helix_mlx.paging.page_allocator import ZERO_PAGE
from helix_mlx.paging.page_pool import DRAFT, TARGET, LayerShape, PagePool
from helix_mlx.paging.prefix_cache import PrefixCache
from tests.support import address

PAGE = 4
SHAPES = [
    [LayerShape(2, 8, 2, 8, mx.float32), LayerShape(3, 8, 1, 16, mx.float16)],
    [LayerShape(1, 4, 1, 4, mx.float16)],
]


def write(pool: PagePool, pages: list[int], seed: int) -> None:
    """Fill pages of both models with numbers of their own."""
    mx.random.seed(seed)
    for model, layers in ((TARGET, SHAPES[TARGET]), (DRAFT, SHAPES[DRAFT])):
        keys = [mx.random.normal((len(pages), s.key_heads, PAGE, s.key_dim)).astype(s.dtype) for s in layers]
        values = [mx.random.normal((len(pages), s.value_heads, PAGE, s.value_dim)).astype(s.dtype) for s in layers]
        mx.eval(keys, values)
        pool.write(model, pages, keys, values)
        mx.eval(pool.keys[model], pool.values[model])


def arrays(pool: PagePool) -> list[mx.array]:
    return [array for side in (pool.keys, pool.values) for layers in side for array in layers]


def contents(pool: PagePool, pages: list[int]) -> list[np.ndarray]:
    return [np.array(array[mx.array(pages)].astype(mx.float32)) for array in arrays(pool)]


def test_what_is_in_the_pages_stays_and_so_do_tables_and_the_prefix_cache() -> None:
    pool = PagePool(SHAPES, PAGE, 5, pages_most=12)
    cache = PrefixCache(pool.allocator, PAGE, b"")
    tokens = list(range(4 * PAGE))
    table, gone = BlockTable(pool.allocator), BlockTable(pool.allocator)
    table.grow(3)
    gone.grow(2)
    write(pool, table.pages + gone.pages, 1)
    cache.add(table, tokens, 3)
    cache.add(gone, tokens[::-1], 2)
    kept = gone.pages
    gone.truncate(0)
    pages = [*table.pages, *kept, ZERO_PAGE]
    before = contents(pool, pages)
    assert (pool.allocator.pages_free, pool.allocator.pages_cached) == (2, 2)
    pool.grow(7)
    assert (pool.allocator.pages_total, pool.allocator.pages_free) == (12, 9)
    assert all(array.shape[0] == 13 for array in arrays(pool))
    assert pool.nbytes == pool.nbytes_most == sum(array.nbytes for array in arrays(pool))
    assert all(np.array_equal(old, new) for old, new in zip(before, contents(pool, pages), strict=True))
    assert cache.match(tokens).pages == table.pages
    assert cache.match(tokens[::-1]).pages == kept
    assert not any(array[mx.array([6, 12])].any().item() for array in arrays(pool))
    table.grow(10)
    assert sorted(table.pages + kept) == list(range(1, 13))
    assert cache.match(tokens[::-1]).pages == kept


def test_pages_are_written_in_place_before_and_after() -> None:
    pool = PagePool(SHAPES, PAGE, 6, pages_most=20)
    table = BlockTable(pool.allocator)
    for size in (6, 20):
        if size > 6:
            pool.grow(size - 6)
        before = [address(array) for array in arrays(pool)]
        for count in range(len(table.pages) + 1, size, 2):
            table.grow(count)
            write(pool, table.pages[-1:], count)
        assert [address(array) for array in arrays(pool)] == before


def test_one_array_is_held_twice_at_a_time() -> None:
    shapes = [[LayerShape(2, 64, 2, 64, mx.float32)] * 8]
    pool = PagePool(shapes, PAGE, 200, pages_most=300)
    mx.clear_cache()
    mx.reset_peak_memory()
    before = mx.get_active_memory()
    pool.grow(100)
    new = pool.nbytes - 201 * pool.bytes_per_page(shapes, PAGE)
    assert mx.get_active_memory() - before == new
    assert mx.get_peak_memory() - before <= new + 2 * pool.keys[0][0].nbytes
