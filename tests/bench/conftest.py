"""A made-up pair in memory: every token of the target is known, and so is the share of drafts that is kept."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from helix_mlx.bench.fixtures.synthetic import synthetic_pair
from helix_mlx.config import EngineConfig
from helix_mlx.engine.engine import Engine

ACCEPTANCE = 0.7


@pytest.fixture(scope="package")
def engine() -> Iterator[Engine]:
    config = EngineConfig(max_context=1024, prefix_cache=False)
    with Engine(synthetic_pair("small/smaller", ACCEPTANCE), config) as engine:
        yield engine
