"""Prefixes of models with recurrent layers: a later request reads only what is new, and says the same."""

from __future__ import annotations

import pytest

from helix_mlx.config import EngineConfig
from helix_mlx.engine.engine import Engine
from helix_mlx.errors import MemoryBudgetError
from helix_mlx.models.pair import Pair
from helix_mlx.request import SamplingParams
from tests.census.families import FAMILIES
from tests.support import built, byte_tokenizer, plain, prompt

FAMILIES_TRIED = ("qwen3_5", "nemotron_h", "lfm2", "rwkv7")


def pair_of(family: str, *, draft: bool) -> Pair:
    target = built({**FAMILIES[family].config, "model_type": family}, 0)
    return Pair(family, target, target if draft else None, byte_tokenizer())


@pytest.mark.parametrize("count", [0, 4])
@pytest.mark.parametrize("family", FAMILIES_TRIED)
def test_a_second_turn_reads_what_is_new(family: str, count: int) -> None:
    pair = pair_of(family, draft=count > 0)
    first, message = prompt(400, 3), prompt(20, 9)
    with Engine(pair, EngineConfig(max_context=1000)) as engine:
        answer = engine.generate([first], [SamplingParams(max_tokens=30)], draft_tokens=count)[0]
        second = [*first, *answer.tokens, *message]
        again = engine.generate([second], [SamplingParams(max_tokens=8)], draft_tokens=count)[0]
        assert again.stats.prefill_tokens < len(message) + 20
        assert again.tokens == plain(pair.target.model, second, 8)
        held = engine.memory()
        assert 0 < held.snapshot_bytes <= held.budget
        assert held.state_bytes == 0


def test_where_texts_part_a_snapshot_is_kept() -> None:
    """Three prompts of one beginning: the second finds its pages but no state, and the third finds both."""
    pair = pair_of("qwen3_5", draft=False)
    beginning = prompt(160, 1)
    with Engine(pair, EngineConfig(max_context=400)) as engine:
        read = []
        for number in range(3):
            text = [*beginning, *prompt(33, 10 + number)]
            answer = engine.generate([text], [SamplingParams(max_tokens=4)])[0]
            assert answer.tokens == plain(pair.target.model, text, 4)
            read.append(answer.stats.prefill_tokens)
    assert read == [193, 193, 33]


def test_states_that_do_not_fit_are_told_with_the_numbers() -> None:
    pair = pair_of("qwen3_5", draft=False)
    states = pair.target.layout.state_bytes
    with pytest.raises(MemoryBudgetError, match=f"{3 * states} bytes.*raise --kv-memory to at least {6 * states}"):
        Engine(pair, EngineConfig(kv_memory=5 * states))
    with pytest.raises(MemoryBudgetError, match=r"of 8 answers.*lower --max-sequences"):
        Engine(pair, EngineConfig(kv_memory=20 * states, max_sequences=8))


def test_fewer_answers_run_at_once_where_their_states_do_not_fit() -> None:
    pair = pair_of("mamba2", draft=False)
    states = pair.target.layout.state_bytes
    with Engine(pair, EngineConfig(kv_memory=18 * states, max_context=64)) as engine:
        assert engine.config.max_sequences == 3
        prompts = [prompt(9, seed) for seed in range(5)]
        answers = engine.generate(prompts, SamplingParams(max_tokens=6))
        assert [each.tokens for each in answers] == [plain(pair.target.model, each, 6) for each in prompts]


def test_without_a_prefix_cache_nothing_is_kept() -> None:
    pair = pair_of("lfm2", draft=False)
    with Engine(pair, EngineConfig(max_context=200, prefix_cache=False)) as engine:
        engine.generate([prompt(100, 1)], [SamplingParams(max_tokens=20)])
        assert engine.memory().snapshot_bytes == 0
