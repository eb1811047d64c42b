"""The rules in rational numbers are lossless, and the production functions compute the same numbers."""

from __future__ import annotations

from fractions import Fraction

import mlx.core as mx
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helix_mlx.speculative.verification import block, token_rule
from helix_mlx.speculative.verification.rejection import ratios, residual_probs
from tests.speculative.verification import oracle
from tests.speculative.verification.oracle import Problem

Floats = npt.NDArray[np.float64]

SIZES = [(2, 0), (2, 1), (2, 2), (2, 3), (2, 4), (3, 1), (3, 2), (3, 3), (3, 4)]
PROBLEMS = [Problem.random(v, k, seed) for v, k in SIZES for seed in range(6 if v**k < 81 else 2)]
PROBLEMS += [Problem.random(v, k, 99, zeros=False) for v, k in SIZES]
PROBLEMS += [Problem.adversarial(v, k) for v, k in SIZES] + [Problem.toy()]


def _name(problem: Problem) -> str:
    return f"V{problem.vocab}-K{problem.count}"


def production(rule: str, p: mx.array, q: mx.array, tokens: mx.array) -> tuple[Floats, Floats]:
    """h, [B, K], and the residuals, [B, K + 1, V], from the production functions."""
    if rule == "block":
        weights = block.prefix_weights(ratios(p, q, tokens))
        h = block.acceptance_probs(p, q, weights)
    else:
        weights = mx.ones(p.shape[:2])
        h = token_rule.acceptance_probs(p, q, tokens)
    residuals = residual_probs(p, mx.pad(q, [(0, 0), (0, 1), (0, 0)]), weights)
    return np.array(h).astype(np.float64), np.array(residuals).astype(np.float64)


def kept_probs(rule: str, h: Floats) -> Floats:
    """How likely each number of drafts is kept: h [B, K] gives [B, K + 1]."""
    ones = np.ones((len(h), 1))
    kept: Floats = np.concatenate([ones, h], axis=1)
    if rule == "token":
        kept = kept.cumprod(axis=1)
        rest = np.concatenate([1 - h, ones], axis=1)
    else:
        rest = np.concatenate([(1 - h)[:, ::-1].cumprod(axis=1)[:, ::-1], ones], axis=1)
    kept *= rest
    return kept


def arrays(problem: Problem) -> tuple[mx.array, mx.array, mx.array, Floats]:
    """p, q, the tokens of every draft path, and how likely the paths are."""
    shape = (len(problem.paths), problem.count, problem.vocab)
    p = [[problem.p[x[:i]] for i in range(problem.count + 1)] for x in problem.paths]
    q = [[problem.q[x[:i]] for i in range(problem.count)] for x in problem.paths]
    tokens = mx.array(np.array(problem.paths, np.int32).reshape(shape[:2]))
    probs = np.array([float(problem.draft_prob(x)) for x in problem.paths])
    return (
        mx.array(np.array(p, np.float32)),
        mx.array(np.array(q, np.float32).reshape(shape)),
        tokens,
        probs,
    )


@pytest.mark.parametrize("rule", ["token", "block"])
@pytest.mark.parametrize("problem", PROBLEMS, ids=_name)
def test_oracle_is_lossless(problem: Problem, rule: str) -> None:
    assert oracle.emitted(problem, rule) == oracle.target_texts(problem)


@pytest.mark.parametrize("rule", ["token", "block"])
@pytest.mark.parametrize("problem", PROBLEMS, ids=_name)
def test_production_equals_the_oracle(problem: Problem, rule: str) -> None:
    p, q, tokens, _ = arrays(problem)
    h, residuals = production(rule, p, q, tokens)
    kept = kept_probs(rule, h)
    for row, path in enumerate(problem.paths):
        decision = oracle.RULES[rule](problem, path)
        np.testing.assert_allclose(h[row], [float(x) for x in decision.acceptance], atol=1e-6)
        np.testing.assert_allclose(kept[row], [float(x) for x in decision.kept], atol=2e-6)
        for i, residual in enumerate(decision.residuals):
            if decision.kept[i]:
                assert residual is not None
                np.testing.assert_allclose(residuals[row, i], [float(x) for x in residual], atol=2e-6)


@pytest.mark.parametrize(("rule", "accepted"), [("token", Fraction(10, 9)), ("block", Fraction(11, 9))])
def test_the_papers_toy(rule: str, accepted: Fraction) -> None:
    problem = Problem.toy()
    assert oracle.expected_accepted(problem, rule) == accepted
    p, q, tokens, probs = arrays(problem)
    kept = kept_probs(rule, production(rule, p, q, tokens)[0])
    assert abs(float((probs * (kept @ np.arange(3))).sum()) - float(accepted)) < 1e-6


@given(st.integers(2, 3), st.integers(1, 3), st.integers(0, 10**6), st.booleans())
@settings(max_examples=60, deadline=None)
def test_block_keeps_at_least_as_much_as_token(vocab: int, count: int, seed: int, zeros: bool) -> None:
    problem = Problem.random(vocab, count, seed, zeros)
    exact = {rule: oracle.expected_accepted(problem, rule) for rule in ("token", "block")}
    assert exact["block"] >= exact["token"]
    p, q, tokens, probs = arrays(problem)
    for rule, value in exact.items():
        kept = kept_probs(rule, production(rule, p, q, tokens)[0])
        assert abs(float((probs * (kept @ np.arange(count + 1))).sum()) - float(value)) < 1e-5


@given(st.integers(0, 10**6), st.integers(1, 4), st.integers(1, 40), st.sampled_from([0.1, 1.0, 30.0]))
@settings(max_examples=60, deadline=None)
def test_probabilities_stay_probabilities(seed: int, count: int, vocab: int, spread: float) -> None:
    rng = np.random.default_rng(seed)
    p = mx.softmax(mx.array(rng.normal(size=(3, count + 1, vocab)) * spread, mx.float32), axis=-1)
    q = mx.softmax(mx.array(rng.normal(size=(3, count, vocab)) * spread, mx.float32), axis=-1)
    # The first sequence's draft is the target itself; the last one's tokens are such as q hardly ever proposes.
    q = mx.concatenate([p[:1, :count], q[1:]])
    tokens = mx.concatenate([mx.argmax(q, axis=-1)[:2], mx.argmin(q, axis=-1)[2:]]).astype(mx.int32)
    for rule in ("token", "block"):
        h, residuals = production(rule, p, q, tokens)
        assert ((h >= 0) & (h <= 1)).all()
        assert (h[0] == 1).all(), "a draft that is the target is always kept"
        assert (residuals >= 0).all()
        np.testing.assert_allclose(residuals.sum(-1), 1, atol=1e-5)
        np.testing.assert_allclose(residuals[0], np.array(p)[0], atol=1e-5)
        np.testing.assert_allclose(residuals[:, count], np.array(p)[:, count], atol=1e-5)


def test_a_draft_that_was_never_possible_is_not_kept() -> None:
    p, q = mx.array([[[0.5, 0.5], [0.5, 0.5]]]), mx.array([[[1.0, 0.0]]])
    for rule in ("token", "block"):
        assert production(rule, p, q, mx.array([[1]]))[0].tolist() == [[0.0]]
    # 0 / 0, and 0 times a ratio without bound.
    p, q = mx.array([[[1.0, 0.0], [0.0, 1.0], [0.5, 0.5]]]), mx.array([[[1.0, 0.0], [1.0, 1e-44]]])
    for rule in ("token", "block"):
        h, residuals = production(rule, p, q, mx.array([[1, 1]]))
        assert np.isfinite(h).all()
        assert np.isfinite(residuals).all()
        assert h[0, 0] == 0
