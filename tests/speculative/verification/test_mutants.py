"""Planted bugs: each must be caught by the very check that the real code passes."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from types import ModuleType

import mlx.core as mx
import numpy as np
import pytest

from helix_mlx.request import SamplingParams
from helix_mlx.sampling import noise
from helix_mlx.sampling.noise import Purpose
from helix_mlx.speculative.verification import block, coupled, greedy, rejection, token_rule
from tests.speculative.verification.markov import (
    Markov,
    Sequences,
    generate,
    many_cycle_complaints,
    one_cycle_complaints,
)

Plant = Callable[[pytest.MonkeyPatch], None]
RULE_FILES = {"token": token_rule, "block": block}


def one_cycle(rule: str) -> list[str]:
    return one_cycle_complaints(rule, Markov.adversarial(16, seed=0), 25_000)


def one_cycle_200k(rule: str) -> list[str]:
    """As `one_cycle`, for a bug that moves only what follows a partly kept draft, and that little."""
    return one_cycle_complaints(rule, Markov.adversarial(16, seed=0), 200_000)


def likely_drafts(rule: str) -> list[str]:
    """As `one_cycle`, with a draft good enough that all of it is often kept."""
    return one_cycle_complaints(rule, Markov.adversarial(4, seed=0, spread=0.4), 25_000)


def many_cycles(rule: str) -> list[str]:
    return many_cycle_complaints(rule, 50_000)


def same_text(rule: str) -> list[str]:
    """For the rules that fix the text: it is the same with drafts as without."""
    params = [SamplingParams(temperature=0.0 if rule == "greedy" else 1.0)] * 4
    for seed in range(4):
        model = Markov.unrelated(40, seed)
        model = Markov(model.target_logits, model.target_logits + 0.3 * model.draft_logits)
        running = Sequences.start(np.arange(4), params, [rule] * 4)
        if not np.array_equal(generate(model, running, [0], 30)[0], generate(model, running, [4], 30)[0]):
            return [f"model {seed}: the text changes with the drafts"]
    return []


def edited(module: ModuleType, old: str, new: str) -> ModuleType:
    """A copy of a module with one piece of its source replaced."""
    source = inspect.getsource(module)
    assert source.count(old) == 1, f"{old!r} is no longer in {module.__name__}: mend this test"
    copy = ModuleType(module.__name__)
    exec(compile(source.replace(old, new), module.__name__, "exec"), copy.__dict__)
    return copy


def early_break(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(block, "last_passing", token_rule.first_rejection)


def residual_from_p(patch: pytest.MonkeyPatch) -> None:
    """max(p - q, 0) where the block rule wants max(p_tau p - q, 0)."""

    def next_token(cycle: rejection.Cycle, accepted: mx.array, weights: mx.array) -> mx.array:
        return rejection.next_token(cycle, accepted, mx.ones_like(weights))

    patch.setattr(block, "next_token", next_token)


def no_residual(patch: pytest.MonkeyPatch) -> None:
    """p itself where max(p - q, 0) is due."""
    copy = edited(rejection, "- draft_probs, 0.0)", "- 0 * draft_probs, 0.0)")
    for module in RULE_FILES.values():
        patch.setattr(module, "next_token", copy.next_token)


def shared_noise(patch: pytest.MonkeyPatch) -> None:
    """The residual is drawn with the numbers of the first draft."""
    words = noise.cycle_words

    def mutant(positions: mx.array, draws: Sequence[tuple[Purpose, int]]) -> mx.array:
        return words(positions, [(Purpose.DRAFT, 1) if d[0] == Purpose.RESIDUAL else d for d in draws])

    patch.setattr(noise, "cycle_words", mutant)


def acceptance_shares_noise(patch: pytest.MonkeyPatch) -> None:
    """A draft is judged by the number it was drawn with."""
    words = noise.cycle_words

    def mutant(positions: mx.array, draws: Sequence[tuple[Purpose, int]]) -> mx.array:
        return words(positions, [(Purpose.DRAFT, d[1]) if d[0] == Purpose.ACCEPT else d for d in draws])

    patch.setattr(noise, "cycle_words", mutant)


def off_by_one_after_all(patch: pytest.MonkeyPatch) -> None:
    """After a full acceptance the next token comes from row K - 1."""
    copy = edited(
        rejection,
        "target_row = cycle.target_probs[batch, accepted]",
        "target_row = cycle.target_probs[batch, mx.minimum(accepted, cycle.target_probs.shape[1] - 2)]",
    )
    for module in RULE_FILES.values():
        patch.setattr(module, "next_token", copy.next_token)


def off_by_one_after_all_equal(patch: pytest.MonkeyPatch) -> None:
    """The same in the rules that compare tokens."""
    copy = edited(
        greedy,
        "target_tokens, accepted[:, None]",
        "target_tokens, mx.minimum(accepted, max(target_tokens.shape[1] - 2, 0))[:, None]",
    )
    for module in (greedy, coupled):
        patch.setattr(module, "keep_equal", copy.keep_equal)


def position_keys(patch: pytest.MonkeyPatch) -> None:
    """Noise keyed by the token's position alone, so that a draft that was rolled back meets its numbers again."""

    def mutant(positions: mx.array, draws: Sequence[tuple[Purpose, int]]) -> mx.array:
        at = positions[:, None] + mx.array([index for _, index in draws])
        return (at.astype(mx.uint32) << 6) | mx.array([int(purpose) for purpose, _ in draws], mx.uint32)

    patch.setattr(noise, "cycle_words", mutant)


def cycle_keys(patch: pytest.MonkeyPatch) -> None:
    """The coupled rule with noise that is fresh every cycle, and so depends on where the cycles begin."""

    def mutant(positions: mx.array) -> mx.array:
        return (positions[:, :1].astype(mx.uint32) << 6) | (mx.arange(positions.shape[1]).astype(mx.uint32) << 3)

    patch.setattr(noise, "token_words", mutant)


CASES: list[tuple[Plant, str, Callable[[str], list[str]]]] = [
    (early_break, "block", one_cycle),
    (residual_from_p, "block", one_cycle_200k),
    (no_residual, "block", one_cycle),
    (no_residual, "token", one_cycle),
    (shared_noise, "block", one_cycle),
    (shared_noise, "token", one_cycle),
    (acceptance_shares_noise, "block", one_cycle),
    (acceptance_shares_noise, "token", one_cycle),
    (off_by_one_after_all, "block", likely_drafts),
    (off_by_one_after_all, "token", likely_drafts),
    (off_by_one_after_all_equal, "greedy", same_text),
    (off_by_one_after_all_equal, "coupled", same_text),
    (position_keys, "block", many_cycles),
    (cycle_keys, "coupled", same_text),
]


@pytest.mark.parametrize(("rule", "check"), sorted({(r, c) for _, r, c in CASES}, key=str))
def test_the_real_rule_passes(rule: str, check: Callable[[str], list[str]]) -> None:
    assert check(rule) == []


@pytest.mark.parametrize(("plant", "rule", "check"), CASES, ids=lambda value: getattr(value, "__name__", value))
def test_the_bug_is_caught(
    plant: Plant, rule: str, check: Callable[[str], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch)
    assert check(rule), f"{plant.__name__} goes unseen by {check.__name__}"
