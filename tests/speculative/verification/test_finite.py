"""Logits that are no numbers: the target's are told, wherever they decide; a draft's are as good as a wrong draft."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest

from helix_mlx.request import SamplingParams
from helix_mlx.sampling.filters import Filters
from helix_mlx.speculative.verification import RULES, draft_token, verify
from helix_mlx.speculative.verification.types import Draft, Rows

VOCAB, COUNT, BATCH = 300, 3, 6
NAN, INF = float("nan"), float("inf")
PARAMS = {
    "greedy": SamplingParams(),
    "coupled": SamplingParams(temperature=0.8, top_p=0.9, seed=1),
    "block": SamplingParams(temperature=0.8, top_k=50),
    "token": SamplingParams(temperature=1.0, min_p=0.01, verification="token"),
}


def cycle(rule: str, target: np.ndarray, draft: np.ndarray | None) -> Rows:
    """A cycle whose drafts the rule itself has drawn from `draft` [B, K, V]."""
    filters, seeds = Filters.of([PARAMS[rule]] * BATCH), mx.arange(BATCH).astype(mx.uint32)
    positions = mx.full((BATCH,), 10, mx.int32)
    if draft is None:
        return Rows(mx.array(target[:, :1]), None, filters, seeds, positions)
    drawn = [draft_token(mx.array(draft[:, i]), i + 1, filters, seeds, positions, [rule] * BATCH) for i in range(COUNT)]
    probs = [each for _, each in drawn if each is not None]
    tokens = mx.stack([token for token, _ in drawn], axis=1)
    return Rows(mx.array(target), Draft(tokens, mx.stack(probs, axis=1) if probs else None), filters, seeds, positions)


def logits(seed: int, rows: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(BATCH, rows, VOCAB)).astype(np.float32) * 2


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(
    ("bad", "places"),
    [(NAN, [0]), (INF, [0]), (NAN, [VOCAB - 1]), (INF, [VOCAB - 1]), *((bad, [*range(VOCAB)]) for bad in (NAN, -INF))],
)
def test_the_targets_are_told(rule: str, bad: float, places: list[int]) -> None:
    """One token of -inf alone is a token that the model rules out."""
    for draft in (None, logits(0, COUNT)):
        target = logits(1, COUNT + 1)
        target[2, 0, places] = bad
        verdict = verify(cycle(rule, target, draft), [rule] * BATCH)
        assert verdict.finite.tolist() == [True, True, False, True, True, True]


@pytest.mark.parametrize("rule", RULES)
def test_rows_behind_the_first_draft_not_kept_decide_nothing(rule: str) -> None:
    target, draft = logits(1, COUNT + 1), logits(0, COUNT)
    target[:, COUNT] = NAN
    verdict = verify(cycle(rule, target, draft), [rule] * BATCH)
    assert verdict.finite.tolist() == (verdict.accepted < COUNT).tolist()
    target[:, COUNT - 1, :] = target[:, COUNT - 1, ::-1]
    same = np.array(target)
    same[:, COUNT] = logits(1, COUNT + 1)[:, COUNT]
    kept = verify(cycle(rule, same, same[:, :COUNT]), [rule] * BATCH)
    assert kept.accepted.tolist() == [COUNT] * BATCH
    assert verify(cycle(rule, target, target[:, :COUNT]), [rule] * BATCH).finite.tolist() == [False] * BATCH


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("bad", [NAN, INF])
def test_a_drafts_change_nothing(rule: str, bad: float) -> None:
    """What follows is what the target says without any draft."""
    target, draft = logits(1, COUNT + 1), logits(0, COUNT)
    draft[:] = bad
    verdict = verify(cycle(rule, target, draft), [rule] * BATCH)
    assert verdict.finite.tolist() == [True] * BATCH
    assert verdict.accepted.tolist() == [0] * BATCH
    plain = verify(cycle(rule, target, None), [rule] * BATCH)
    assert verdict.next_token.tolist() == plain.next_token.tolist()
