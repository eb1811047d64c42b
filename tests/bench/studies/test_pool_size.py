from __future__ import annotations

from helix_mlx.bench.studies.pool_size import cycle_times, engine_with
from helix_mlx.engine.engine import Engine


def test_a_pool_has_its_pages_from_the_beginning_and_the_cycles_are_the_same(engine: Engine) -> None:
    counts = []
    for pages in (32, 64):
        with engine_with(engine.pair, pages, page_size=4, lookahead=0) as made:
            assert made._core.pool.allocator.pages_total == pages
            counts.append(len(cycle_times(made, 40)))
    assert counts[0] == counts[1] > 5
