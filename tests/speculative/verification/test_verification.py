"""The table of rules, and batches whose sequences run under different ones."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest

from helix_mlx.request import VERIFICATIONS, SamplingParams
from helix_mlx.sampling.filters import Filters
from helix_mlx.speculative.verification import RULES, draft_token, verify
from helix_mlx.speculative.verification.types import Draft, Rows

RULE_OF_ROW = ["block", "greedy", "token", "coupled", "block", "greedy", "coupled", "token"]
PARAMS = [
    SamplingParams(temperature=0.9, top_k=20),
    SamplingParams(),
    SamplingParams(temperature=1.1, top_p=0.8),
    SamplingParams(temperature=0.7, seed=3),
    SamplingParams(temperature=1.0),
    SamplingParams(),
    SamplingParams(temperature=1.0, min_p=0.05, top_k=30, top_p=0.9, seed=4),
    SamplingParams(temperature=0.6, min_p=0.1, verification="token"),
]
BATCH = len(PARAMS)


def test_every_rule_a_request_can_name_is_in_the_table() -> None:
    assert set(RULES) == set(VERIFICATIONS)


def _cycle(rows: list[int], count: int, vocab: int, one_hot: bool = False) -> tuple[Rows, list[mx.array]]:
    """A cycle of some of eight sequences, and what the draft model gave; the same for a sequence in any choice."""
    rng = np.random.default_rng(vocab + count)
    target = rng.normal(size=(BATCH, count + 1, vocab)) * 2
    draft = target[:, :count] + rng.normal(size=(BATCH, count, vocab)) * 0.7
    filters = Filters.of([PARAMS[row] for row in rows])
    seeds = mx.array(np.arange(BATCH)[rows] * 77 + 5, mx.uint32)
    positions = mx.array(np.arange(BATCH)[rows] * 13 + 2, mx.int32)
    rules = [RULE_OF_ROW[row] for row in rows]
    tokens, probs = [], []
    for index in range(1, count + 1):
        draft_logits = mx.array(draft[rows, index - 1], mx.float32)
        token, token_probs = draft_token(draft_logits, index, filters, seeds, positions, rules)
        tokens.append(token)
        probs.append(token_probs)
    known = [p for p in probs if p is not None]
    proposed = None
    if count:
        all_known = mx.stack(known, axis=1) if known and not one_hot else None
        proposed = Draft(mx.stack(tokens, axis=1), all_known)
    return Rows(mx.array(target[rows], mx.float32), proposed, filters, seeds, positions), known


@pytest.mark.parametrize("vocab", [37, 300])
@pytest.mark.parametrize("count", [0, 1, 4, 7])
@pytest.mark.parametrize("one_hot", [False, True])
def test_a_mixed_batch_is_each_sequence_alone(vocab: int, count: int, one_hot: bool) -> None:
    together, probs = _cycle(list(range(BATCH)), count, vocab, one_hot)
    verdict = verify(together, RULE_OF_ROW)
    for row in range(BATCH):
        alone, own_probs = _cycle([row], count, vocab, one_hot)
        own = verify(alone, RULE_OF_ROW[row : row + 1])
        assert verdict.accepted[row].item() == own.accepted[0].item()
        assert verdict.next_token[row].item() == own.next_token[0].item()
        if together.draft is not None and alone.draft is not None:
            assert together.draft.tokens[row].tolist() == alone.draft.tokens[0].tolist()
        for mixed, single in zip(probs, own_probs, strict=False):
            assert mx.array_equal(mixed[row], single[0])


def test_some_of_a_batch_is_kept_and_some_is_not() -> None:
    rows, _ = _cycle(list(range(BATCH)), 4, 300)
    accepted = np.array(verify(rows, RULE_OF_ROW).accepted)
    assert 0 < accepted.sum() < 4 * BATCH


def test_greedy_rows_of_a_mixed_batch_are_one_hot() -> None:
    rows, probs = _cycle(list(range(BATCH)), 2, 37)
    assert rows.draft is not None
    for index, step in enumerate(probs):
        greedy = np.array(step)[1]
        assert greedy.sum() == 1
        assert greedy[rows.draft.tokens[1, index].item()] == 1


@pytest.mark.parametrize("rule", list(RULES))
@pytest.mark.parametrize("count", [0, 4])
def test_nothing_is_evaluated_on_the_way(rule: str, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("the host waits inside a rule")

    params = SamplingParams(temperature=0.0 if rule == "greedy" else 0.9, top_k=5, top_p=0.9, min_p=0.01)
    filters, seeds, positions = Filters.of([params] * 2), mx.zeros(2, mx.uint32), mx.zeros(2, mx.int32)
    logits = mx.random.normal((2, count + 1, 40), key=mx.random.key(0))
    for name in ("eval", "async_eval"):
        monkeypatch.setattr(mx, name, refuse)

    def both(target_logits: mx.array) -> list[mx.array]:
        tokens = [
            draft_token(target_logits[:, i], i + 1, filters, seeds, positions, [rule] * 2)[0] for i in range(count)
        ]
        draft = Draft(mx.stack(tokens, axis=1), None) if tokens else None
        verdict = verify(Rows(target_logits, draft, filters, seeds, positions), [rule] * 2)
        return [verdict.accepted, verdict.next_token]

    # While a function is traced an array has no value, so any look at one raises. Nothing is compiled before eval.
    assert [a.shape for a in mx.compile(both)(logits)] == [(2,), (2,)]


def test_lengths_and_types() -> None:
    rows, _ = _cycle([0], 3, 37)
    for rule in RULES:
        verdict = verify(rows, [rule])
        assert verdict.accepted.shape == verdict.next_token.shape == (1,)
        assert verdict.accepted.dtype == verdict.next_token.dtype == mx.int32
