"""Temperature 0."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest

from helix_mlx.request import SamplingParams
from helix_mlx.sampling.filters import Filters
from helix_mlx.speculative.verification import verify
from helix_mlx.speculative.verification.greedy import best_tokens
from helix_mlx.speculative.verification.types import Draft, Rows
from tests.speculative.verification.markov import Markov, Sequences, generate

GREEDY = SamplingParams()


@pytest.mark.parametrize("count", [0, 1, 4, 7])
def test_every_draft_gives_the_targets_text(count: int) -> None:
    model = Markov.unrelated(13, seed=1)
    best = np.array(mx.argmax(model.target_logits, axis=-1))
    expected, last = [], 0
    for _ in range(30):
        last = int(best[last])
        expected.append(last)
    for draft_logits in (model.draft_logits, model.target_logits, -model.target_logits):
        running = Sequences.start(np.arange(3), [GREEDY] * 3, ["greedy"] * 3)
        text, rate = generate(Markov(model.target_logits, draft_logits), running, [count], 30)
        assert text.tolist() == [expected] * 3
        if draft_logits is model.target_logits:
            assert rate == count + 1


def test_keeps_the_longest_equal_prefix_only() -> None:
    logits = mx.array(np.eye(6, dtype=np.float32)[[[1, 2, 3, 4, 5]] * 6])
    drafts = [[1, 2, 3, 4], [1, 2, 3, 0], [1, 2, 0, 4], [1, 0, 3, 4], [0, 2, 3, 4], [0, 0, 0, 0]]
    rows = Rows(logits, Draft(mx.array(drafts), None), Filters.of([GREEDY] * 6), mx.zeros(6, mx.uint32), mx.arange(6))
    verdict = verify(rows, ["greedy"] * 6)
    assert verdict.accepted.tolist() == [4, 3, 2, 1, 0, 0]
    assert verdict.next_token.tolist() == [5, 4, 3, 2, 1, 1]
    assert verdict.accepted.dtype == verdict.next_token.dtype == mx.int32


@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16, mx.float16])
def test_near_ties_are_settled_as_mlx_lm_settles_them(dtype: mx.Dtype) -> None:
    # The best two differ by a little; the subtraction in half precision makes them equal now and then.
    rng = np.random.default_rng(0)
    raw = rng.normal(size=(4, 50, 64))
    raw[..., 40] = raw.max(-1) + rng.uniform(0, 0.01, size=(4, 50))
    logits = mx.array(raw * 0.3, mx.float32).astype(dtype)
    one_by_one = [mx.argmax(row - mx.logsumexp(row, keepdims=True)).item() for row in logits.reshape(200, 64)]
    assert best_tokens(logits)[0].reshape(-1).tolist() == one_by_one
    if dtype != mx.float32:
        assert one_by_one != mx.argmax(logits, axis=-1).reshape(-1).tolist()
