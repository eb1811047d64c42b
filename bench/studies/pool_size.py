"""The time of a cycle in a small and a large page pool, which must be the same.

    helix-mlx bench pool-size [--pages 64 --pages 64000]

If writes copied the pool, a cycle would take longer by the time of a copy.
"""

from __future__ import annotations

import statistics
import time
from contextlib import ExitStack

import click

from helix_mlx.bench.fixtures.loading import open_engine
from helix_mlx.bench.output.command import Measured, measurement
from helix_mlx.bench.output.options import ChosenPair, pair_options
from helix_mlx.config import EngineConfig
from helix_mlx.engine.engine import Engine
from helix_mlx.engine.memory import DEFAULT_CONTEXT
from helix_mlx.models.pair import Pair
from helix_mlx.paging.page_pool import PagePool


def cycle_times(engine: Engine, max_tokens: int) -> list[float]:
    """Seconds between the cycles of one answer, commits included."""
    times, last = [], 0.0
    tokens = engine.pair.tokenizer.encode("import os\nimport sys\n")
    for chunk in engine.stream(tokens, max_tokens=max_tokens, temperature=0, draft_tokens=4):
        if chunk.token is not None and not chunk.from_draft:
            now = time.perf_counter()
            if last:
                times.append(now - last)
            last = now
    return times


def engine_with(pair: Pair, pages: int, page_size: int, lookahead: int) -> Engine:
    """An engine whose pool has so many pages from the beginning."""
    layers = [model.layers for model in (pair.target, pair.draft) if model is not None]
    context = min(pages * page_size, pair.target.max_context or DEFAULT_CONTEXT)
    memory = (pages + 1) * PagePool.bytes_per_page(layers, page_size)
    engine = Engine(pair, EngineConfig(page_size=page_size, kv_memory=memory, max_context=context, lookahead=lookahead))
    pool = engine._core.pool
    if pool.allocator.pages_total < pages:
        pool.grow(pages - pool.allocator.pages_total)
    return engine


@measurement
@pair_options
@click.option(
    "--pages",
    multiple=True,
    default=(64, 64_000),
    show_default=True,
    type=click.IntRange(1),
    help="Pool sizes to compare.",
)
@click.option(
    "--page-size",
    default=4,
    show_default=True,
    type=click.IntRange(1),
    help="Positions per page; small pages commit often.",
)
@click.option("--repeats", default=5, show_default=True, type=click.IntRange(1), help="Answers per pool, in turn.")
@click.option(
    "--lookahead", default=0, show_default=True, type=click.IntRange(0, 1), help="Cycles to start before one is read."
)
def main(chosen: ChosenPair, pages: tuple[int, ...], page_size: int, repeats: int, lookahead: int) -> Measured:
    """Compare the median cycle time of different pool sizes."""
    with open_engine(chosen, EngineConfig(), click.echo) as engine:
        loaded = engine.pair
    with ExitStack() as stack:
        engines = [stack.enter_context(engine_with(loaded, count, page_size, lookahead)) for count in pages]
        times: list[list[float]] = [[] for _ in engines]
        for _ in range(repeats):
            for engine, row in zip(engines, times, strict=True):
                row += cycle_times(engine, 150)
        first = statistics.median(times[0])
        for count, engine, row in zip(pages, engines, times, strict=True):
            middle = statistics.median(row)
            click.echo(
                f"{count:>7,} pages ({engine.memory().bytes / 1e6:8.1f} MB): {middle * 1e3:6.2f} ms a cycle, "
                f"ratio {middle / first:.2f}, {len(row)} cycles"
            )
    return [{"pages": count, "seconds": row} for count, row in zip(pages, times, strict=True)], []
