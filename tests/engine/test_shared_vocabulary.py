"""A draft of another vocabulary speculates, and the text stays the target's own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from helix_mlx.config import EngineConfig
from helix_mlx.engine.engine import Engine
from helix_mlx.models.loader import LoadedModel
from helix_mlx.models.pair import Pair, fitted
from helix_mlx.models.text.shared_vocabulary import SharedVocabulary
from helix_mlx.models.text.vocabulary import shared_ids
from helix_mlx.request import Request, SamplingParams
from tests.models.text.test_vocabulary import CODE, PROSE, trained
from tests.support import plain, random_model

PROMPT = "for line in"
SIZES = {"num_hidden_layers": 1, "hidden_size": 32, "intermediate_size": 48}


@pytest.fixture(scope="module")
def pair() -> Pair:
    """Two vocabularies, taught on different texts. The draft's weights are the target's, token by token."""
    code, prose = trained(CODE, 300), trained(PROSE, 290)
    target = random_model("llama", 0, vocab_size=len(code.vocab), **SIZES)
    draft = random_model("llama", 0, vocab_size=len(prose.vocab), **SIZES)
    ours, theirs = _parameters(target), _parameters(draft)
    shared = shared_ids(code, prose)
    for part in ("embed_tokens", "lm_head"):
        rows = theirs[part]
        for index, other in shared.items():
            rows[other] = ours[part][index]
        module: Any = getattr(draft.model, "model", None) if part == "embed_tokens" else draft.model
        getattr(module, part).weight = mx.array(rows)
    model: Any = draft.model
    other_model: Any = target.model
    model.model.layers = other_model.model.layers
    made = fitted(draft, target, code, prose)
    assert isinstance(made.model, SharedVocabulary)
    return Pair("two vocabularies", target, made, code)


def _parameters(loaded: LoadedModel) -> dict[str, np.ndarray]:
    model: Any = loaded.model
    return {"embed_tokens": np.array(model.model.embed_tokens.weight), "lm_head": np.array(model.lm_head.weight)}


@pytest.fixture
def engine(pair: Pair) -> Iterator[Engine]:
    with Engine(pair, EngineConfig(max_context=128, max_rows=64)) as engine:
        yield engine


def test_what_the_draft_cannot_say_is_impossible(pair: Pair) -> None:
    draft: Any = pair.draft
    draft_logits = np.array(draft.model(mx.array([[1, 2, 3]])))
    possible = np.isfinite(draft_logits)
    assert draft_logits.shape[-1] == pair.target.vocab_size
    assert (possible == possible[0, 0]).all()
    assert 250 < possible[0, 0].sum() < pair.target.vocab_size


def test_the_draft_reads_and_says_tokens_of_its_own(pair: Pair) -> None:
    draft: Any = pair.draft
    shared = shared_ids(pair.tokenizer, trained(PROSE, 290))
    read = [index for index in shared if shared[index] != index][:5]
    assert len(read) == 5
    own_logits = np.array(draft.model.draft(mx.array([[shared[index] for index in read]])))
    draft_logits = np.array(draft.model(mx.array([read])))
    for index, other in shared.items():
        assert (draft_logits[..., index] == own_logits[..., other]).all()


@pytest.mark.parametrize("count", [1, 4, 7])
def test_greedy_and_seeded_text_is_plain_decodings(engine: Engine, count: int) -> None:
    tokens = engine.pair.tokenizer.encode(PROMPT)
    done = engine.generate(tokens, max_tokens=60, draft_tokens=count)
    assert done.tokens == plain(engine.pair.target.model, tokens, 60)[: len(done.tokens)]
    assert done.stats.accepted > 0
    for seed in range(4):
        params = SamplingParams(max_tokens=40, temperature=0.9, seed=seed)
        expected = engine.generate(tokens, params, draft_tokens=0).tokens
        found = engine.generate(tokens, params, draft_tokens=count)
        assert found.tokens == expected
        assert found.stats.accepted > 0


@pytest.mark.parametrize("rule", ["token", "block"])
def test_drawn_text_has_the_targets_own_distribution(engine: Engine, rule: str) -> None:
    """Chi-square over the token that is drafted first, whatever came before it."""
    tokens = engine.pair.tokenizer.encode(PROMPT)
    draws = 1500
    handles = [
        engine.submit(Request(tokens, SamplingParams(3, 0.7, top_k=6, seed=seed, verification=rule), 2, "model"))
        for seed in range(draws)
    ]
    found = Counter(tuple(handle.result().tokens[:2]) for handle in handles)
    expected = _two_tokens(engine, tokens, temperature=0.7, top_k=6)
    assert set(found) <= set(expected)
    rare = [pair for pair, chance in expected.items() if chance * draws < 5]
    statistic = sum(
        (found[pair] - chance * draws) ** 2 / (chance * draws) for pair, chance in expected.items() if pair not in rare
    )
    # The 99.99 % quantile of chi-square, by Wilson and Hilferty; the draws are seeded, so this never flickers.
    freedom = len(expected) - len(rare) - 1
    assert statistic < freedom * (1 - 2 / (9 * freedom) + 3.72 * (2 / (9 * freedom)) ** 0.5) ** 3
    kept = sum(handle.result().stats.accepted for handle in handles[:200])
    assert kept > 5


def _two_tokens(engine: Engine, tokens: list[int], temperature: float, top_k: int) -> dict[tuple[int, int], float]:
    """The chance of every two first tokens, by the target alone."""

    def following(prefix: list[int]) -> dict[int, float]:
        target_logits = np.array(engine.pair.target.model(mx.array([prefix]))[0, -1], np.float64) / temperature
        best = np.argsort(target_logits)[-top_k:]
        probs = np.exp(target_logits[best] - target_logits[best].max())
        return dict(zip(best.tolist(), (probs / probs.sum()).tolist(), strict=True))

    return {
        (first, second): chance * other
        for first, chance in following(tokens).items()
        for second, other in following([*tokens, first]).items()
    }
