"""Random mixes of requests to models with recurrent layers: each says what it would say alone."""

from __future__ import annotations

import random

import pytest

from helix_mlx.config import EngineConfig
from helix_mlx.engine.engine import Engine
from helix_mlx.engine.execution.runner import Runner
from helix_mlx.models.pair import Pair
from tests.census.families import FAMILIES
from tests.engine.mixes import AtRandom, Mix, Oracle
from tests.support import built, byte_tokenizer

STEPS = 60
KINDS = (
    "qwen3_5", "qwen3_next", "lfm2", "nemotron_h", "falcon_h1", "granitemoehybrid", "mamba2", "jamba", "rwkv7",
    "recurrent_gemma", "kimi_linear",
)  # fmt: skip


def held(runner: Runner) -> int:
    """Bytes of states that somebody holds."""
    return runner.metrics().state_bytes


@pytest.mark.parametrize("steps", [STEPS, pytest.param(1000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("family", KINDS)
def test_every_request_says_what_it_says_alone(family: str, steps: int) -> None:
    """With drafts of the target's own, so that any number of them is kept; in too little memory, so that some give up
    their pages and come back from a snapshot.
    """
    chance = random.Random(family)
    target = built({**FAMILIES[family].config, "model_type": family}, 0)
    pair = Pair(family, target, target, byte_tokenizer())
    oracle = Oracle(pair)
    page_size = chance.choice((4, 8))
    per_page = sum(shape.bytes_per_position for shape in target.layers) * 2 * page_size
    states = 2 * target.layout.state_bytes
    config = EngineConfig(
        page_size=page_size,
        max_context=96,
        kv_memory=per_page * (1 + 2 * 96 // page_size) + 40 * states,
        prefill_chunk=chance.choice((5, 16, 64)),
        max_sequences=6,
        max_rows=chance.choice((16, 24, 128)),
        lookahead=chance.choice((None, 0, 1)),
    )
    with Engine(pair, config) as engine:
        engine._core.runner.policy = AtRandom(chance)
        mix = Mix(engine._core, chance)
        mix.run(steps)
        mix.check(oracle)
        print(
            family,
            (m := engine._core.runner.metrics()).preemptions,
            m.accepted,
            m.drafted,
            m.prefix_hit_tokens,
            m.prefill_tokens,
            len(mix.ended),
            m.snapshot_bytes // states,
            m.pages_total,
        )
        assert held(engine._core.runner) == 0
    oracle.engine.close()
