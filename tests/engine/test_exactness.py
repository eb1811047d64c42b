"""The text is what the target alone says, token for token, with no tolerance: greedy and seeded."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from math import prod
from typing import Any

import pytest

from helix_mlx.config import EngineConfig
from helix_mlx.engine.engine import Engine
from helix_mlx.kernels.cpu.choice import CpuKernels
from helix_mlx.models.pair import Pair
from helix_mlx.request import SamplingParams
from tests.support import plain, prompt, quantized_pair, random_model, random_pair

PROMPT_LENGTHS = (5, 33, 1, 16, 64, 17, 8, 50)
NEW = 40
SEEDED: dict[str, Any] = {"temperature": 0.8, "seed": 1234, "top_p": 0.95}


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


PAGE_SIZES, LOOKAHEADS = (8, 16, 64), (0, 1)
COUNTS, BATCHES = (0, 1, 2, 4, 7), (1, 2, 3, 8)
GRID = [pytest.param(False, id="sample"), pytest.param(True, id="whole", marks=pytest.mark.slow)]


def cases(drafts: int, page_size: int, lookahead: int, whole: bool) -> list[tuple[int, int]]:
    """Draft lengths and batches for one engine: all, or a sixth of them.

    Together the samples have every draft length with every batch for each choice of `drafts`, and both of them with
    every page size and lookahead.
    """
    part = PAGE_SIZES.index(page_size) * len(LOOKAHEADS) + lookahead
    return [
        (count, batch)
        for i, count in enumerate(COUNTS)
        for j, batch in enumerate(BATCHES)
        if whole or (2 * i + j + 3 * drafts) % 6 == part
    ]


def test_the_samples_cover_the_grid() -> None:
    engines = list(product((0, 1), PAGE_SIZES, LOOKAHEADS))
    seen = {(*engine, *case) for engine in engines for case in cases(*engine, whole=False)}
    assert len(seen) * 6 == len([case for engine in engines for case in cases(*engine, whole=True)])
    for kept in ((0, 3, 4), (1, 2, 3), (1, 2, 4)):
        sizes = [(2, 3, 2, 5, 4)[index] for index in kept]
        assert len({tuple(case[index] for index in kept) for case in seen}) == prod(sizes)


@pytest.fixture(scope="module")
def seeded(pair: Pair, prompts: list[list[int]]) -> list[list[int]]:
    """Plain decoding's own, one by one."""
    with Engine(replace(pair, draft=None), EngineConfig(max_context=512)) as engine:
        expected = [texts(engine, [tokens], 0, **SEEDED)[0] for tokens in prompts]
    assert len({tuple(text) for text in expected}) == len(expected)
    return expected


@pytest.fixture(params=["greedy", "seeded"])
def settings_and_texts(request: pytest.FixtureRequest) -> tuple[dict[str, Any], list[list[int]]]:
    """Settings, and the texts that they give: mlx-lm's at temperature 0, with a seed those of plain decoding."""
    return SEEDED if request.param == "seeded" else {}, request.getfixturevalue(request.param)


@pytest.mark.parametrize("whole", GRID)
@pytest.mark.parametrize("lookahead", LOOKAHEADS)
@pytest.mark.parametrize("page_size", PAGE_SIZES)
def test_text_with_drafts_is_the_targets_own(
    pair: Pair,
    agreeing: Pair,
    prompts: list[list[int]],
    settings_and_texts: tuple[dict[str, Any], list[list[int]]],
    page_size: int,
    lookahead: int,
    whole: bool,
) -> None:
    settings, expected = settings_and_texts
    for drafts, chosen in enumerate((pair, agreeing)):
        with Engine(chosen, config_of(page_size, lookahead)) as engine:
            for count, batch in cases(drafts, page_size, lookahead, whole):
                assert texts(engine, prompts[:batch], count, **settings) == expected[:batch], (drafts, count, batch)


@pytest.mark.parametrize("whole", GRID)
@pytest.mark.parametrize("lookahead", LOOKAHEADS)
@pytest.mark.parametrize("page_size", PAGE_SIZES)
def test_greedy_text_without_a_draft_is_mlx_lms(
    pair: Pair, prompts: list[list[int]], greedy: list[list[int]], page_size: int, lookahead: int, whole: bool
) -> None:
    with Engine(replace(pair, draft=None), config_of(page_size, lookahead)) as engine:
        for batch in BATCHES if whole else (1, 3):
            assert texts(engine, prompts[:batch], 0) == greedy[:batch], batch


def config_of(page_size: int, lookahead: int) -> EngineConfig:
    return EngineConfig(page_size=page_size, lookahead=lookahead, prefill_chunk=24, max_context=512)


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
