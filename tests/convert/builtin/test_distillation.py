from __future__ import annotations

from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm.utils import dequantize_model, load_model
from tokenizers import Tokenizer

from helix_mlx.convert.builtin import distillation
from helix_mlx.convert.builtin.architecture import save_float_checkpoint
from helix_mlx.convert.builtin.data.batches import RowSource
from helix_mlx.convert.builtin.data.corpus import Corpus
from helix_mlx.convert.builtin.distillation import (
    MixedSource,
    compare,
    distillation_loss,
    imitation_loss,
    load_teacher,
    write_training_texts,
)
from helix_mlx.convert.builtin.generation import Written, WrittenSource
from helix_mlx.convert.quantization import quantize_checkpoint
from tests.convert.builtin.conftest import DRAFT, TARGET, TOKENIZER, loud


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    return np.asarray(powers / powers.sum(-1, keepdims=True))


@pytest.mark.parametrize("temperature", [1.0, 0.8])
def test_the_divergence_and_the_share_that_the_token_rule_rejects(temperature: float) -> None:
    wanted, given = (2 * mx.random.normal((1, 3, 20), key=mx.random.key(seed)) for seed in (0, 1))
    p, q = (softmax(np.array(each, np.float64) / temperature) for each in (wanted, given))
    divergence, rejected = compare(wanted, given, temperature)
    assert np.allclose(np.array(divergence), (p * np.log(p / q)).sum(-1), atol=1e-3)
    assert np.allclose(np.array(rejected), 1 - np.minimum(p, q).sum(-1), atol=1e-3)
    for same in compare(wanted, wanted, temperature):
        assert np.allclose(np.array(same), 0.0, atol=1e-3)


def test_a_draft_is_taught_where_there_is_weight_and_the_teacher_is_not() -> None:
    wanted, given = (2 * mx.random.normal((1, 2, 20), key=mx.random.key(seed)) for seed in (0, 1))
    weights = mx.array([[1.0, 0.0]])
    towards_teacher, towards_draft = mx.grad(
        lambda draft, teacher: imitation_loss(teacher, draft, weights), argnums=(0, 1)
    )(given, wanted)
    assert mx.array_equal(towards_draft, mx.zeros_like(wanted))
    assert float(mx.abs(towards_teacher[0, 0]).max()) > 0
    assert mx.array_equal(towards_teacher[0, 1], mx.zeros(20))
    assert float(imitation_loss(wanted, given - 0.1 * towards_teacher, weights)) < float(
        imitation_loss(wanted, given, weights)
    )


def test_the_teacher_speaks_as_its_four_bits_will(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distillation, "TARGET", TARGET)
    model, tokens = loud(TARGET), mx.array([[3, 4, 5]])
    save_float_checkpoint(model, TARGET, TOKENIZER, tmp_path / "target")
    quantize_checkpoint(tmp_path / "target", tmp_path / "quantised")
    packed, _ = load_model(tmp_path / "quantised")
    packed.set_dtype(mx.float32)
    teacher = load_teacher(tmp_path / "target")
    expected = np.array(dequantize_model(packed)(tokens))
    rounding = np.abs(np.array(model(tokens)) - expected).max()
    assert np.abs(np.array(teacher(tokens)) - expected).max() < rounding / 20
    assert not teacher.trainable_parameters()["model"]["embed_tokens"]
    loss = distillation_loss(teacher)
    row = mx.array([[3, 4, 5, 6]])
    same, other = (float(loss(model, row, mx.ones((1, 3)))) for model in (teacher, DRAFT.build()))
    assert same < other


def test_rows_are_of_all_sources(corpus: Corpus, tokenizer: Tokenizer) -> None:
    rows = RowSource(corpus, tokenizer, ["Be brief."], seed=0)
    chats, code = (WrittenSource([Written((token,), (1.0,))], token, seed=0) for token in (4001, 4002))
    tokens, weights = MixedSource(rows, chats, code).batch(10, 7)
    assert (tokens.shape, weights.shape) == ((10, 8), (10, 7))
    marks = [int(row[0]) for row in tokens]
    assert (marks.count(4001), marks.count(4002)) == (3, 3)


def test_the_target_writes_chats_and_code_however_short_the_time(
    corpus: Corpus, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    lengths: list[set[int]] = []

    def write(teacher: object, prompts: list[tuple[int, ...]], *_: object) -> list[Written]:
        lengths.append({len(prompt) for prompt in prompts})
        return [Written(prompts[0], (1.0,) * len(prompts[0]))]

    monkeypatch.setattr(distillation, "write_texts", write)
    rows = RowSource(corpus, tokenizer, ["Be brief."], seed=0)
    chats, code = write_training_texts(TARGET.build(), rows, (0, 4), minutes=0.0, seed=0)
    assert (len(chats), len(code)) == (1, 1)
    assert lengths[1] == {distillation.CODE_PROMPT_TOKENS[0]}
