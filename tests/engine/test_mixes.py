"""Random mixes of requests that arrive, cancel, fork and are preempted: each says what it would say alone."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace

import pytest

from helix_mlx.config import EngineConfig
from helix_mlx.engine.engine import Engine
from helix_mlx.models.pair import Pair
from tests.engine.mixes import AtRandom, Mix, Oracle
from tests.support import byte_tokenizer, random_model

STEPS = 350


@pytest.fixture(scope="module")
def pair() -> Pair:
    target = random_model("llama", num_hidden_layers=2, intermediate_size=16)
    draft = random_model("llama", 3, num_hidden_layers=1, intermediate_size=16)
    return Pair("small", target, draft, byte_tokenizer())


@pytest.fixture(scope="module")
def oracle(pair: Pair) -> Iterator[Oracle]:
    oracle = Oracle(pair)
    yield oracle
    oracle.engine.close()


@pytest.mark.parametrize("seed", [*range(6), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(6, 12))])
def test_every_request_says_what_it_says_alone(pair: Pair, oracle: Oracle, seed: int) -> None:
    chance = random.Random(seed)
    page_size = chance.choice((4, 8, 16))
    chosen = replace(pair, draft=pair.target) if seed % 2 else pair
    sizing = Engine(chosen, EngineConfig(page_size=page_size, max_context=96))
    per_page = sizing.memory().bytes // (sizing.memory().pages_total + 1)
    sizing.close()
    config = EngineConfig(
        page_size=page_size,
        max_context=96,
        kv_memory=per_page * (1 + chance.choice((1, 2, 3)) * 96 // page_size),
        prefill_chunk=chance.choice((5, 16, 64)),
        max_sequences=chance.choice((3, 8, 16)),
        max_rows=chance.choice((16, 24, 128)),
        lookahead=(None, 0, 1)[seed // 2 % 3],
        prefix_cache=seed % 3 > 0,
    )
    with Engine(chosen, config) as engine:
        if seed % 4:
            engine._core.runner.policy = AtRandom(chance)
        mix = Mix(engine._core, chance)
        mix.run(STEPS)
        mix.check(oracle)
        assert len(mix.ended) > 30
