"""The text is what the target alone says, token for token, with no tolerance: greedy and seeded."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from helix_mlx.config import EngineConfig
from helix_mlx.engine.engine import Engine
from helix_mlx.kernels.cpu_kernels import CpuKernels
from helix_mlx.models.pair import Pair
from helix_mlx.request import SamplingParams
from tests.families import FAMILIES
from tests.support import plain, prompt, quantized_pair, random_model, random_pair

PROMPT_LENGTHS = (5, 33, 1, 16, 64, 17, 8, 50)
NEW = 40


@pytest.fixture(scope="module", params=["off", "on"])
def pair(request: pytest.FixtureRequest) -> Pair:
    """With MLX's own products and attention, and with the CPU kernels': the text is the target's own in both."""
    if request.param == "off":
        return random_pair()
    return quantized_pair(CpuKernels(request.getfixturevalue("cpu_library"), ""))


@pytest.fixture(scope="module")
def agreeing(pair: Pair) -> Pair:
    """The target as its own draft: every draft is accepted, so full acceptance happens in every cycle."""
    return replace(pair, draft=pair.target)


@pytest.fixture(scope="module")
def prompts() -> list[list[int]]:
    return [prompt(length, seed) for seed, length in enumerate(PROMPT_LENGTHS)]


@pytest.fixture(scope="module")
def greedy(pair: Pair, prompts: list[list[int]]) -> list[list[int]]:
    return [plain(pair.target.model, tokens, NEW) for tokens in prompts]


def texts(engine: Engine, prompts: list[list[int]], draft_tokens: int, **settings: Any) -> list[list[int]]:
    done = engine.generate(prompts, SamplingParams(max_tokens=NEW, **settings), draft_tokens=draft_tokens)
    assert engine.memory().pages_used == 0
    return [completion.tokens for completion in done]


@pytest.mark.parametrize("lookahead", [0, 1])
@pytest.mark.parametrize("page_size", [8, 16, 64])
def test_greedy_text_is_mlx_lms(
    pair: Pair, agreeing: Pair, prompts: list[list[int]], greedy: list[list[int]], page_size: int, lookahead: int
) -> None:
    config = EngineConfig(page_size=page_size, lookahead=lookahead, prefill_chunk=24, max_context=512)
    for chosen in (pair, agreeing, replace(pair, draft=None)):
        with Engine(chosen, config) as engine:
            for count in (0, 1, 2, 4, 7) if chosen.draft else (0,):
                for batch in (1, 2, 3, 8):
                    assert texts(engine, prompts[:batch], count) == greedy[:batch], (chosen.draft, count, batch)


@pytest.mark.parametrize("lookahead", [0, 1])
@pytest.mark.parametrize("page_size", [8, 16, 64])
def test_seeded_text_is_plain_decodings(
    pair: Pair, agreeing: Pair, prompts: list[list[int]], page_size: int, lookahead: int
) -> None:
    settings = {"temperature": 0.8, "seed": 1234, "top_p": 0.95}
    with Engine(replace(pair, draft=None), EngineConfig(max_context=512)) as engine:
        expected = [texts(engine, [tokens], 0, **settings)[0] for tokens in prompts]
    assert len({tuple(text) for text in expected}) == len(expected)
    config = EngineConfig(page_size=page_size, lookahead=lookahead, prefill_chunk=24, max_context=512)
    for chosen in (pair, agreeing):
        with Engine(chosen, config) as engine:
            for count in (0, 1, 2, 4, 7):
                for batch in (1, 2, 3, 8):
                    assert texts(engine, prompts[:batch], count, **settings) == expected[:batch], (count, batch)


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_families_say_what_mlx_lm_says(family: str) -> None:
    """Each family with an unrelated draft, alone and in a ragged batch, past the window where it has one."""
    loaded = random_model(family)
    pair = replace(random_pair(), target=loaded)
    prompts = [prompt(37, 5), prompt(9, 6), prompt(70, 7)]
    expected = [plain(loaded.model, tokens, NEW) for tokens in prompts]
    with Engine(pair, EngineConfig(max_context=256)) as engine:
        for count in (0, 4):
            assert texts(engine, prompts[:1], count) == expected[:1]
            assert texts(engine, prompts, count) == expected


def test_a_draft_with_a_window_is_exact_too(pair: Pair, greedy: list[list[int]], prompts: list[list[int]]) -> None:
    with Engine(replace(pair, draft=random_model("gpt_oss")), EngineConfig(max_context=512)) as engine:
        assert texts(engine, prompts, 4) == greedy


def test_every_sequence_of_a_batch_has_its_own_settings(pair: Pair, prompts: list[list[int]]) -> None:
    """Greedy, seeded, and rules by request in one batch: each as it would be alone."""
    each = [
        SamplingParams(max_tokens=NEW),
        SamplingParams(max_tokens=13, temperature=0.7, seed=1),
        SamplingParams(max_tokens=NEW, temperature=1.0, seed=2, verification="block"),
        SamplingParams(max_tokens=25, temperature=1.2, seed=3, verification="token", top_k=20),
        SamplingParams(max_tokens=31, temperature=0.9, seed=4, min_p=0.05),
    ]
    with Engine(pair, EngineConfig(max_context=512)) as engine:
        together = engine.generate(prompts[:5], each, draft_tokens=4)
        for tokens, params, completion in zip(prompts, each, together, strict=False):
            alone = engine.generate(tokens, params, draft_tokens=4)
            assert completion.tokens == alone.tokens
            assert len(completion.tokens) == params.max_tokens


def test_full_acceptance_emits_one_more_than_it_drafted(agreeing: Pair, prompts: list[list[int]]) -> None:
    with Engine(agreeing, EngineConfig(max_context=512)) as engine:
        stats = engine.generate(prompts[0], max_tokens=41, draft_tokens=4).stats
    assert stats.target_passes == 8
    assert stats.accepted == stats.drafted == 32
    assert stats.accepted_by_position == [8, 8, 8, 8]
    assert stats.host_syncs == 9
