"""The plain simulation of speculation that the model card's figures come from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx_lm.utils import load_model
from tokenizers import Tokenizer

from helix_mlx.convert.builtin import evaluation
from helix_mlx.convert.builtin.architecture import save_float_checkpoint
from helix_mlx.convert.builtin.data.corpus import Corpus, Question
from helix_mlx.convert.builtin.evaluation import Acceptance, Pair, Setting, next_probs, simulate
from helix_mlx.convert.quantization import quantize_checkpoint
from tests.convert.builtin.conftest import DRAFT, TARGET, TOKENIZER, loud
from tests.support import plain


def test_probabilities_of_rows() -> None:
    logits = mx.array([[0.0, 1.0, 0.0], [2.0, 0.0, 0.0]])
    assert next_probs(logits, 0.0).tolist() == [[0, 1, 0], [1, 0, 0]]
    warm = next_probs(logits, 0.5)
    assert warm.sum(-1) == pytest.approx(1.0)
    assert warm[0, 1] / warm[0, 0] == pytest.approx(np.exp(2.0))


def test_acceptance_is_of_what_was_drafted() -> None:
    counts = Acceptance(draft_length=4)
    counts.add(accepted=4, emitted=5)
    counts.add(accepted=1, emitted=2)
    assert (counts.cycles, counts.emitted, counts.by_position) == (2, 7, [2, 1, 1, 1])
    assert counts.rate == pytest.approx(5 / 8)
    assert counts.rates_by_position == [1.0, 0.5, 0.5, 0.5]
    assert Acceptance(draft_length=4).rate == 0.0


@pytest.mark.parametrize("own_draft", [True, False])
def test_at_temperature_0_the_target_says_what_it_says_alone(own_draft: bool, tokenizer: Tokenizer) -> None:
    target = loud(TARGET)
    pair = Pair(target, target if own_draft else loud(DRAFT), tokenizer)
    counts = Acceptance(draft_length=4)
    said = simulate(pair, [30, 31, 32], Setting(0.0, max_tokens=6), counts)
    alone: list[int] = plain(target, [30, 31, 32], len(said))
    assert said == alone
    assert len(said) == counts.emitted >= 6
    assert (counts.rate == 1.0) is own_draft


def test_the_token_rule_keeps_the_targets_distribution() -> None:
    """By many draws for one draft of three tokens."""
    random = np.random.default_rng(0)
    target = np.array([[0.6, 0.3, 0.1], [0.2, 0.2, 0.6]])
    draft = np.array([[0.1, 0.2, 0.7]])
    first = np.zeros(3)
    for _ in range(6000):
        drafted = int(random.choice(3, p=draft[0]))
        accepted, next_token = evaluation._verify(target, draft, [drafted], random)
        first[drafted if accepted else next_token] += 1
    assert first / first.sum() == pytest.approx(target[0], abs=0.025)


def test_a_model_that_knows_nothing_has_the_perplexity_of_its_vocabulary() -> None:
    class Uniform(nn.Module):
        def __call__(self, tokens: mx.array) -> mx.array:
            return mx.zeros((*tokens.shape, 50))

    assert evaluation.perplexity(Uniform(), [([1, 2, 3, 4], 1), ([5, 6, 7], 2)]) == pytest.approx(50.0, rel=1e-4)


def test_figures_are_of_held_out_text_and_the_same_every_time(corpus: Corpus, tokenizer: Tokenizer) -> None:
    for kind, count in (("code", 2), ("helix", 1), ("stdlib", 1)):
        prompts: Any = [evaluation.held_out_prompts(corpus, tokenizer, kind, 2) for _ in range(2)]  # type: ignore[arg-type]
        assert prompts[0] == prompts[1]
        assert len(prompts[0]) == count
    (helix,) = evaluation.held_out_prompts(corpus, tokenizer, "helix", 5)
    assert tokenizer.decode(helix) == "What is a tail 0?"  # its special tokens are not shown
    ((text, begin),) = evaluation.perplexity_texts(corpus, tokenizer, "helix")
    assert text[:begin] == helix
    assert evaluation.perplexity_texts(corpus, tokenizer, "code")[0][1] == 1


def test_an_answer_is_right_with_all_its_parts(
    tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def simulated(pair: Pair, prompt: list[int], setting: Setting, counts: Acceptance) -> list[int]:
        assert tokenizer.decode(prompt, skip_special_tokens=False) == "<|user|>What is a page?<|end|><|assistant|>"
        assert setting.temperature == 0
        return [*tokenizer.encode("Sixteen positions of memory.").ids, pair.eos_ids[0]]

    monkeypatch.setattr(evaluation, "simulate", simulated)
    pair = Pair(TARGET.build(), DRAFT.build(), tokenizer)
    assert evaluation.answer(pair, "What is a page?") == "Sixteen positions of memory."
    file = tmp_path / "questions.toml"
    parts = (["positions", "memory"], ["positions", "draft"])
    file.write_text("".join(f'[[question]]\nquestion = "What is a page?"\ncontains = {part}\n' for part in parts))
    assert [verdict.is_right for verdict in evaluation.ask_twenty_questions(pair, file)] == [True, False]
    asked = [
        Question("helix", "a page", "What is a page?", said) for said in ("Sixteen positions of memory.", "Wrong.")
    ]
    assert evaluation.right_answers(pair, asked) == 0.5


def test_a_pair_is_loaded_with_the_numbers_that_its_bits_stand_for(tmp_path: Path) -> None:
    for name, architecture in (("target", TARGET), ("draft", DRAFT)):
        save_float_checkpoint(architecture.build(), architecture, TOKENIZER, tmp_path / "float" / name)
        quantize_checkpoint(tmp_path / "float" / name, tmp_path / "pair" / name)
    pair = evaluation.load_pair(tmp_path / "pair")
    packed, _ = load_model(tmp_path / "pair" / "target")
    packed.set_dtype(mx.float32)
    tokens = mx.array([[3, 4, 5]])
    assert np.allclose(np.array(pair.target(tokens)), np.array(packed(tokens)), atol=1e-4)
    assert len(pair.draft.layers) == DRAFT.layers
