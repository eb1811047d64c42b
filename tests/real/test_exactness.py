"""The text of real models is what mlx-lm says: for any drafter, draft length, batch and seed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from helix_mlx.bench.fixtures import baselines
from helix_mlx.engine.engine import Engine
from helix_mlx.kernels.cpu.choice import NO_KERNELS
from helix_mlx.models.pair import load_pair
from helix_mlx.models.text.shared_vocabulary import SharedVocabulary
from helix_mlx.request import SamplingParams

QUESTIONS = (
    "What is the capital of France?",
    "Write a Python function that reverses a string.",
    "List five fruits as a JSON array.",
    "Count from 1 to 10, then once more.",
    "Correct the grammar: 'He go to school yesterday and buyed a apple.'",
)
BEGINNINGS = ("The capital of France is", "1, 2, 3, 4, 5,")
NEW = 16
WINDOW = 512
"""Positions that most of Gemma's layers see."""
CASES = (("ngram", 1), ("ngram", 7), ("model", 1), ("model", 4), ("model", 7))
"""Drafters and draft lengths; batches turn with them."""


def settings(count: int) -> list[SamplingParams]:
    """Greedy and seeded in turn, so that each batch has both, and every prompt is answered in either way."""
    return [
        SamplingParams(max_tokens=NEW, temperature=0.8 * (number % 2), seed=number if number % 2 else None)
        for number in range(count)
    ]


def check(engine: Engine, prompts: list[list[int]], cases: tuple[tuple[str, int], ...]) -> None:
    """Plain decoding alone is mlx-lm's, and in a batch and with drafts the same again."""
    both = [tokens for tokens in prompts for _ in range(2)]
    params = settings(len(both))
    expected = [engine.generate(tokens, each, draft_tokens=0).tokens for tokens, each in zip(both, params, strict=True)]
    assert expected[::2] == [baselines.greedy(engine.pair, tokens, NEW) for tokens in prompts]
    done = engine.generate(both, params, draft_tokens=0)
    assert [each.tokens for each in done] == expected
    for number, (drafter, count) in enumerate(cases):
        first = number % 3
        some = slice(first, first + (2, len(both), 3)[number % 3])
        done = engine.generate(both[some], params[some], draft_tokens=count, drafter=drafter)
        assert [each.tokens for each in done] == expected[some], (drafter, count)
        drafted = [each.stats.drafted for each in done if each.stats is not None]
        assert drafter != "model" or all(drafted), (drafter, count)
    assert engine.memory().pages_used == 0


def test_smollm2_says_what_mlx_lm_says(smollm2_engine: Engine) -> None:
    tokenizer = smollm2_engine.pair.tokenizer
    check(smollm2_engine, [tokenizer.encode_chat([{"role": "user", "content": text}]) for text in QUESTIONS], CASES)


def test_helix_s_kernels_do_not_change_it(smollm2: Path, smollm2_engine: Engine) -> None:
    """Held to mlx-lm with all of MLX's own operations, which takes its time."""
    theirs = replace(load_pair(target=str(smollm2), draft="none"), kernels=NO_KERNELS)
    for text in QUESTIONS[:1]:
        tokens = smollm2_engine.pair.tokenizer.encode_chat([{"role": "user", "content": text}])
        ours = smollm2_engine.generate(tokens, max_tokens=NEW, temperature=0.0, draft_tokens=4).tokens
        assert ours == baselines.greedy(theirs, tokens, NEW)


def test_gemma_with_a_draft_of_another_vocabulary(gemma_engine: Engine) -> None:
    pair = gemma_engine.pair
    assert pair.target.vocab_size == 262_144
    assert pair.draft is not None
    assert isinstance(pair.draft.model, SharedVocabulary)
    check(gemma_engine, [pair.tokenizer.encode(text) for text in BEGINNINGS], CASES[1:])


def test_smollm2_s_drafts_are_of_use_to_gemma(gemma_engine: Engine) -> None:
    stats = gemma_engine.generate(BEGINNINGS[1], max_tokens=NEW, temperature=0.0, draft_tokens=4, drafter="model").stats
    assert stats is not None
    assert stats.accepted > stats.drafted / 3


def test_gemma_s_windows(gemma_engine: Engine) -> None:
    """A prompt that ends just before the window: the answer crosses it."""
    tokens = gemma_engine.pair.tokenizer.encode("One line follows another, and each is a little different. " * 60)
    prompt = tokens[: WINDOW - 8]
    expected = baselines.greedy(gemma_engine.pair, prompt, NEW)
    found = gemma_engine.generate(prompt, max_tokens=NEW, temperature=0.0, draft_tokens=7, drafter="model")
    assert found.tokens == expected
