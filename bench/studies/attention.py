"""Our CPU attention kernel, compared with gathering pages and with mlx-lm's contiguous cache.

    helix-mlx bench attention [--context 2048] [--rows 5] [--out FILE]

The shapes are TinyLlama's: 32 query heads, 4 heads of keys and values, 64 wide. Every arm writes its rows first, as
a model does: ours into the tail, mlx-lm's into its cache. The arms take turns, and the medians are of one run.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import click
import mlx.core as mx
import numpy as np
from mlx_lm.models.base import create_attention_mask, scaled_dot_product_attention
from mlx_lm.models.cache import KVCache

from helix_mlx.bench.output.command import Measured, measurement
from helix_mlx.errors import SettingsError
from helix_mlx.kernels.cpu import attention
from helix_mlx.kernels.cpu.library import CpuLibrary, load_library
from helix_mlx.kernels.paged_attention import Stored
from helix_mlx.kernels.paged_attention import paged_attention as definition
from helix_mlx.paging.block_table import BlockTable
from helix_mlx.paging.page_pool import TARGET, LayerShape, PagePool
from helix_mlx.paging.paged_cache import PagedKV, commit

HEADS, KV_HEADS, DIM = 32, 4, 64
PAGE = 16
SCALE = DIM**-0.5


@dataclass
class Case:
    """One layer of one sequence: what lies before the rows, and the rows' own queries, keys and values."""

    before: tuple[mx.array, mx.array]
    rows: tuple[mx.array, mx.array, mx.array]
    kv: PagedKV
    cache: KVCache

    @classmethod
    def random(cls, context: int, rows: int) -> Case:
        """`context` positions in all, the rows of the pass among them."""
        past = context - rows
        keys, values = (mx.random.normal((1, KV_HEADS, past, DIM)) for _ in range(2))
        own = tuple(mx.random.normal((1, heads, rows, DIM)) for heads in (HEADS, KV_HEADS, KV_HEADS))
        shape = LayerShape(KV_HEADS, DIM, KV_HEADS, DIM, mx.float32)
        pool = PagePool([[shape]], PAGE, past // PAGE + 1)
        kv = PagedKV.empty(pool, TARGET, BlockTable(pool.allocator), past + PAGE)
        kv.tail.write(0, kv.tail.places(mx.array([0], mx.int32), keys.shape[2]), keys, values)
        mx.eval(kv.tail.keys, kv.tail.values)
        mx.synchronize()
        commit([kv], [[past - 1]])
        kv.tail = kv.tail.resized(2 * PAGE + rows)
        cache = KVCache()
        cache.update_and_fetch(keys, values)
        mx.eval(keys, values, own, kv.tail.keys, kv.tail.values, cache.state)
        return cls((keys, values), (own[0], own[1], own[2]), kv, cache)

    @property
    def past(self) -> int:
        """Positions before the rows."""
        return self.before[0].shape[2]

    def stored(self) -> Stored:
        """The rows written into the tail, and where everything lies."""
        queries, keys, values = self.rows
        (cache,) = self.kv.caches(mx.array([self.past], mx.int32), self.past + queries.shape[2], exact=True)
        self.kv.tail.write(0, self.kv.tail.places(cache.offset - self.kv.committed[0], keys.shape[2]), keys, values)
        pages = self.kv.pool.keys[TARGET][0], self.kv.pool.values[TARGET][0]
        tail = self.kv.tail.keys[0], self.kv.tail.values[0]
        layout = self.kv.layout()
        return Stored(pages, layout.block_table, layout.committed, tail, cache.offset)

    def kernel(self, library: CpuLibrary) -> mx.array:
        """Our kernel."""
        return attention.paged_attention(library, self.rows[0], self.stored(), scale=SCALE)

    def gathered(self) -> mx.array:
        """The definition, through the block table."""
        return definition(self.rows[0], self.stored(), scale=SCALE)

    def run(self) -> mx.array:
        """What Helix does without the kernel where a sequence's pages lie side by side."""
        queries, keys, values = self.rows
        (cache,) = self.kv.caches(mx.array([self.past], mx.int32), self.past + queries.shape[2], exact=True)
        mask: Any = cache.make_mask(queries.shape[2])
        all_keys, all_values = cache.update_and_fetch(keys, values)
        return scaled_dot_product_attention(queries, all_keys, all_values, cache=None, scale=SCALE, mask=mask)

    def contiguous(self) -> mx.array:
        """mlx-lm's cache and attention."""
        queries, keys, values = self.rows
        mask = create_attention_mask(mx.zeros((1, queries.shape[2], 1)), self.cache)
        all_keys, all_values = self.cache.update_and_fetch(keys, values)
        self.cache.trim(queries.shape[2])
        return scaled_dot_product_attention(queries, all_keys, all_values, cache=None, scale=SCALE, mask=mask)

    def exact(self) -> np.ndarray:
        """The same in float64."""
        wide = [np.array(a, np.float64) for a in (*self.before, *self.rows)]
        keys = np.concatenate([wide[0], wide[3]], axis=2).repeat(HEADS // KV_HEADS, axis=1)
        values = np.concatenate([wide[1], wide[4]], axis=2).repeat(HEADS // KV_HEADS, axis=1)
        scores = SCALE * wide[2] @ keys.swapaxes(2, 3)
        rows = scores.shape[2]
        scores[:, :, np.arange(scores.shape[3])[None] > self.past + np.arange(rows)[:, None]] = -np.inf
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        return weights @ values / weights.sum(-1, keepdims=True)


def times(arms: dict[str, Callable[[], mx.array]], repeats: int) -> dict[str, list[float]]:
    """Seconds of each arm, in turn."""
    found: dict[str, list[float]] = {name: [] for name in arms}
    for repeat in range(repeats + 2):
        for name, arm in arms.items():
            began = time.perf_counter()
            mx.eval(arm())
            if repeat >= 2:
                found[name].append(time.perf_counter() - began)
    return found


@measurement
@click.option(
    "--context", default=2048, show_default=True, type=click.IntRange(2), help="Positions, including the rows."
)
@click.option("--rows", default=5, show_default=True, type=click.IntRange(1), help="Rows of the pass.")
@click.option("--repeats", default=30, show_default=True, type=click.IntRange(1), help="Runs per arm.")
@click.option("--threads", type=click.IntRange(1), help="Kernel threads.  [default: all cores]")
def main(context: int, rows: int, repeats: int, threads: int | None) -> Measured:
    """Compare the CPU attention kernel with other ways: median times, ratios and errors."""
    if rows >= context:
        raise SettingsError(f"--rows is {rows}, but must be less than --context, {context}")
    mx.set_default_device(mx.cpu)
    mx.random.seed(0)
    library = load_library(click.echo)
    library.set_threads(threads)
    case = Case.random(context, rows)
    arms: dict[str, Callable[[], mx.array]] = {
        "kernel": lambda: case.kernel(library),
        "gather": case.gathered,
        "gather, one run": case.run,
        "mlx-lm, contiguous": case.contiguous,
    }
    exact = case.exact()
    errors = {name: float(np.abs(np.array(arm()) - exact).max()) for name, arm in arms.items()}
    taken = times(arms, repeats)
    first = statistics.median(taken["kernel"])
    click.echo(f"{context} positions, {rows} rows, {library.form}, {library.threads} threads, {repeats} repeats")
    for name, row in taken.items():
        middle = statistics.median(row)
        click.echo(
            f"{name:>20}: {middle * 1e3:8.3f} ms, {middle / first:6.1f} times the kernel, error {errors[name]:.1e}"
        )
    kernel = {"form": library.form, "threads": library.threads}
    return {"context": context, "rows": rows, **kernel, "seconds": taken, "errors": errors}, []
