from __future__ import annotations

import numpy as np
import pytest
from tokenizers import Tokenizer

from helix_mlx.convert.builtin.data.batches import QUESTION_WEIGHT, Mixture, RowSource
from helix_mlx.convert.builtin.data.corpus import Corpus
from helix_mlx.convert.builtin.data.tokenizer import END_OF_TEXT, special_ids


@pytest.fixture
def source(corpus: Corpus, tokenizer: Tokenizer) -> RowSource:
    return RowSource(corpus, tokenizer, ["Be brief."], seed=0)


def test_rows_are_of_the_length_asked_for_and_depend_on_the_seed(
    source: RowSource, corpus: Corpus, tokenizer: Tokenizer
) -> None:
    tokens, weights = source.batch(6, 40)
    assert (tokens.shape, weights.shape) == ((6, 41), (6, 40))
    assert tokens.dtype == np.int32
    assert weights.dtype == np.float32
    same, other = (RowSource(corpus, tokenizer, ["Be brief."], seed).batch(6, 40)[0] for seed in (0, 1))
    assert np.array_equal(tokens, same)
    assert not np.array_equal(tokens, other)


def test_an_answer_weighs_more_than_its_question(source: RowSource, tokenizer: Tokenizer) -> None:
    ids = special_ids(tokenizer)
    source.mixture = Mixture(system=0.0, single_turn=1.0, varied=0.0, out_of_scope=0.0)
    tokens, weights = source.conversation()
    begins = tokens.index(ids["<|assistant|>"])
    assert tokens[0] == ids["<|user|>"]
    assert tokens[-1] == ids[END_OF_TEXT]
    assert set(weights[: begins + 1]) == {QUESTION_WEIGHT}
    assert set(weights[begins + 1 : -1]) == {1.0}
    assert tokenizer.decode(tokens[begins + 1 : -2]).startswith("It is ")


def test_code_is_code_alone(source: RowSource, tokenizer: Tokenizer) -> None:
    tokens, weights = source.code_batch(2, 30)
    assert (weights == 1.0).all()
    ids = special_ids(tokenizer)
    assert not np.isin(tokens, [ids["<|user|>"], ids["<|assistant|>"]]).any()
    assert len(source.code_prompt(17)) == 17


def test_a_chat_prompt_ends_where_the_answer_begins(source: RowSource, tokenizer: Tokenizer) -> None:
    ids = special_ids(tokenizer)
    texts = set()
    for _ in range(40):
        prompt = source.chat_prompt()
        assert prompt[-1] == ids["<|assistant|>"]
        texts.add(tokenizer.decode(list(prompt)))
    assert any("ast.parse" in text for text in texts)  # which nobody has taught it to answer
