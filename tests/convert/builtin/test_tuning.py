from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from tokenizers import Tokenizer

from helix_mlx.convert.builtin.data.batches import Mixture, RowSource
from helix_mlx.convert.builtin.data.corpus import Corpus
from helix_mlx.convert.builtin.generation import Written, WrittenSource
from helix_mlx.convert.builtin.tuning import TunedPair, TuningSource, tuning_loss
from tests.convert.builtin.conftest import DRAFT, TARGET


def test_each_kind_of_row_has_tasks_of_its_own(corpus: Corpus, tokenizer: Tokenizer) -> None:
    rows = RowSource(corpus, tokenizer, ["Be brief."], seed=0)
    rows.mixture = Mixture(code=0.0)
    chats, code = (WrittenSource([Written((token,), (1.0,))], token, seed=0) for token in (4001, 4002))
    tokens, weights = TuningSource(rows, chats, code).batch(8, 5)
    assert (tokens.shape, weights.shape) == ((8, 6), (8, 5, 3))
    assert [int(row[0]) for row in tokens[4:]] == [4001, 4001, 4002, 4002]
    learn, imitate, meet = (weights[..., task] for task in range(3))
    assert not learn[4:].any()  # of the target's own texts it learns nothing
    assert np.array_equal(learn[:4], imitate[:4])
    assert not meet[:2].any()
    assert np.array_equal(meet[2:4], imitate[2:4])
    assert np.allclose(meet[4:6], 0.3 * imitate[4:6])


def test_a_task_without_weight_teaches_nobody() -> None:
    pair, tokens = TunedPair(TARGET.build(), DRAFT.build()), mx.array([[30, 31, 32, 33]])

    def taught(task: int) -> tuple[bool, bool]:
        weights = mx.zeros((1, 3, 3))
        weights[..., task] = 1.0
        _, slopes = nn.value_and_grad(pair, tuning_loss)(pair, tokens, weights)
        norms = (slopes[name]["model"]["norm"]["weight"] for name in ("target", "draft"))
        target, draft = (bool(mx.abs(norm).max() > 0) for norm in norms)
        return target, draft

    assert [taught(task) for task in range(3)] == [(True, False), (False, True), (True, False)]
