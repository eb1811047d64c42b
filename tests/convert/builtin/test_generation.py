from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm.models.llama import Model

from helix_mlx.convert.builtin.data.batches import QUESTION_WEIGHT
from helix_mlx.convert.builtin.generation import Written, WrittenSource, continue_prompts, write_texts
from tests.convert.builtin.conftest import TARGET, loud
from tests.support import plain

PROMPTS = np.array([[3, 4, 5], [6, 7, 8]], np.int32)


@pytest.fixture(scope="module")
def model() -> Model:
    return loud(TARGET)


def test_greedy_rows_of_a_batch_are_those_alone_and_end_where_they_end(model: Model) -> None:
    cold = np.zeros(2, np.float32)
    alone = [plain(model, row.tolist(), 8) for row in PROMPTS]
    assert continue_prompts(model, PROMPTS, cold, 8, ()) == alone
    end = alone[0][2]
    cut = [text[: text.index(end) + 1] if end in text else text for text in alone]
    assert continue_prompts(model, PROMPTS, cold, 8, (end,)) == cut


def test_warm_rows_are_drawn_beside_greedy_ones(model: Model) -> None:
    mx.random.seed(0)
    warm = np.array([0.0, 5.0], np.float32)
    texts = [continue_prompts(model, PROMPTS, warm, 8, ()) for _ in range(2)]
    assert texts[0][0] == texts[1][0]
    assert texts[0][1] != texts[1][1]


def test_prompts_of_a_length_are_written_together_and_few_are_left_out(model: Model) -> None:
    prompts = [(3, 4, 5)] * 9 + [(3, 4)] * 7
    written = list(write_texts(model, prompts, 4, (), seed=0))
    assert len(written) == 9
    for text in written:
        assert text.tokens[:3] == (3, 4, 5)
        assert text.weights == (QUESTION_WEIGHT,) * 3 + (1.0,) * (len(text.tokens) - 3)


def test_texts_are_packed_one_after_another() -> None:
    source = WrittenSource([Written((7, 8), (0.1, 1.0))], end_of_text=0, seed=0)
    tokens, weights = source.batch(2, 5)
    assert tokens.tolist() == [[7, 8, 0, 7, 8, 0]] * 2
    assert weights[0] == pytest.approx([1.0, QUESTION_WEIGHT, 0.1, 1.0, QUESTION_WEIGHT])
