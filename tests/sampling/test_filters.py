"""Filters against a plain reference, and rows that do not feel each other."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from helix_mlx.request import SamplingParams
from helix_mlx.sampling.filters import Filters, filtered_logits, filtered_probs

Floats = npt.NDArray[np.float64]

MANY = [
    SamplingParams(temperature=1.0),
    SamplingParams(temperature=0.7),
    SamplingParams(temperature=0.0),
    SamplingParams(temperature=0.8, top_k=5),
    SamplingParams(temperature=0.8, top_k=10**9),
    SamplingParams(temperature=1.3, top_p=0.9),
    SamplingParams(temperature=1.0, top_k=3, top_p=0.6),
    SamplingParams(temperature=1.0, top_k=7, top_p=0.99, min_p=0.1),
    SamplingParams(temperature=0.5, min_p=0.05),
    SamplingParams(temperature=2.0, top_p=1e-6),
    SamplingParams(temperature=1e-45, top_p=0.5),
    SamplingParams(temperature=1.0, top_p=1e-60, top_k=1, min_p=1.0),
]


def reference(logits: Floats, params: SamplingParams) -> tuple[Floats, float]:
    """The filters one after the other, in float64; and how near top-p or min-p came to deciding otherwise."""
    logits = logits / params.temperature
    if 0 < params.top_k < logits.size:
        kth = np.sort(logits)[-params.top_k]
        # Top-p counts k tokens; those that tie with the k-th come back at the end.
        ranked = np.sort(logits)[-params.top_k :]
    else:
        kth, ranked = -np.inf, np.sort(logits)
    probs = np.exp(ranked - ranked[-1])
    probs /= probs.sum()
    keep, margin = logits >= kth, np.inf
    if params.top_p < 1:
        above = np.array([probs[i + 1 :].sum() for i in range(len(ranked))])
        margin = min(margin, float(np.abs(above - params.top_p).min()))
        keep &= logits >= ranked[np.flatnonzero(above < params.top_p)[0]]
    if params.min_p > 0:
        relative = np.exp(logits - logits.max())
        # At 0 or at the best token itself nothing can go the other way.
        margin = min(margin, float(np.abs(np.where(relative == 1, 2, relative) - params.min_p).min()))
        keep &= relative >= params.min_p
    result = np.where(keep, np.exp(logits - logits.max()), 0)
    return result / result.sum(), margin


@st.composite
def cases(draw: st.DrawFn) -> tuple[Floats, SamplingParams]:
    vocab = draw(st.integers(1, 24))
    # A coarse grid, so that ties are common.
    steps = draw(st.lists(st.integers(-24, 24), min_size=vocab, max_size=vocab))
    params = SamplingParams(
        temperature=draw(st.sampled_from([0.25, 0.5, 1.0, 2.0])),
        top_k=draw(st.integers(0, 30)),
        top_p=draw(st.sampled_from([1.0, 0.999, 0.9, 0.5, 0.1, 0.001])),
        min_p=draw(st.sampled_from([0.0, 0.01, 0.1, 0.5, 1.0])),
    )
    return np.array(steps) / 8.0, params


@given(cases())
@settings(max_examples=200, deadline=None)
def test_equal_to_the_reference(case: tuple[Floats, SamplingParams]) -> None:
    logits, params = case
    expected, margin = reference(logits, params)
    assume(margin > 1e-5)
    probs = np.array(filtered_probs(mx.array(logits, mx.float32)[None, None], Filters.of([params])))[0, 0]
    np.testing.assert_allclose(probs, expected, atol=2e-6)
    assert ((probs > 0) == (expected > 0)).all()
    assert probs.argmax() == logits.argmax()


@pytest.mark.parametrize("vocab", [2, 37, 500])
def test_a_row_is_the_same_in_any_batch(vocab: int) -> None:
    rng = np.random.default_rng(vocab)
    # Rounded, so that rows have ties at every edge.
    logits = mx.array(np.round(rng.normal(size=(len(MANY), 3, vocab)) * 3, 1), mx.float32)
    filters = Filters.of(MANY)
    together = np.array(filtered_probs(logits, filters))
    assert np.isfinite(together).all()
    np.testing.assert_allclose(together.sum(-1), 1, atol=1e-5)
    for row in range(len(MANY)):
        alone = filtered_probs(logits[row : row + 1], filters.take([row]))
        assert np.array_equal(together[row], np.array(alone)[0]), MANY[row]
        one = filtered_probs(logits[row : row + 1, 1:2], Filters.of([MANY[row]]))
        assert np.array_equal(together[row, 1], np.array(one)[0, 0]), MANY[row]
    order = [5, 0, 7, 7, 3]
    some = filtered_probs(logits[mx.array(order)], filters.take(order))
    assert np.array_equal(together[order], np.array(some))


def test_all_that_tie_with_the_kth_are_kept() -> None:
    logits = mx.array([[[1.0, 3.0, 2.0, 2.0, 2.0, 0.0]]])
    kept = np.array(filtered_probs(logits, Filters.of([SamplingParams(temperature=1.0, top_k=2)])))[0, 0] > 0
    assert kept.tolist() == [False, True, True, True, True, False]
    both = Filters.of([SamplingParams(temperature=1.0, top_k=2), SamplingParams(temperature=1.0, top_p=0.5)])
    wide = filtered_probs(mx.concatenate([logits, logits]), both)
    assert (np.array(wide)[0, 0] > 0).tolist() == kept.tolist()


def test_padded_and_impossible_ids_stay_impossible() -> None:
    logits = mx.array([[[1.0, 0.5, -mx.inf, -mx.inf]]] * len(MANY))
    probs = np.array(filtered_probs(logits, Filters.of(MANY)))
    assert np.isfinite(probs).all()
    assert not probs[..., 2:].any()


def test_half_precision_is_filtered_in_float32() -> None:
    logits = mx.array(np.random.default_rng(0).normal(size=(1, 2, 50)), mx.bfloat16)
    filters = Filters.of([MANY[7]])
    assert filtered_probs(logits, filters).dtype == mx.float32
    assert mx.array_equal(filtered_probs(logits, filters), filtered_probs(logits.astype(mx.float32), filters))


def test_filters_that_are_off_cost_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("an unused filter runs")

    logits = mx.zeros((2, 1, 8))
    for name in ("sort", "topk", "cumsum", "max", "exp", "where"):
        monkeypatch.setattr(mx, name, refuse)
    filtered_logits(logits, Filters.of([SamplingParams(), SamplingParams(temperature=1.0, top_k=8)]))
