"""Both sides of the benchmark of a step decode the same batch, token after token."""

from __future__ import annotations

import pytest

from helix_mlx.bench.fixtures.models import pair_of, random_llama
from helix_mlx.bench.studies.step_cost import PAGE, WIDTH, Helix, MlxLm, measure
from helix_mlx.models.pair import Pair


@pytest.fixture(scope="module")
def pair() -> Pair:
    return pair_of(random_llama(0, quantized=True, num_hidden_layers=1, vocab_size=WIDTH["vocab_size"]), None, "off")


@pytest.mark.parametrize("lookahead", [0, 1])
def test_a_step_is_a_token_of_every_sequence(pair: Pair, lookahead: int) -> None:
    ours = Helix(pair, batch=2, context=2 * PAGE + 3, steps=PAGE, lookahead=lookahead)
    began = ours.emitted
    for _ in range(PAGE + 1):
        ours.step()
    ours.settle()
    assert ours.emitted - began == 2 * (PAGE + 1)


def test_a_step_of_mlx_lm_adds_a_position_to_every_row(pair: Pair) -> None:
    theirs = MlxLm(pair, batch=2, context=20)
    cache = theirs._batch.prompt_cache[0]
    lengths = []
    for _ in range(3):
        theirs.step()
        theirs.settle()
        lengths.append(cache.offset.tolist())
    assert lengths[0][0] > 20
    assert lengths == [[lengths[0][0] + step] * 2 for step in range(3)]


def test_a_row_has_a_figure_of_each_side_for_every_block(pair: Pair) -> None:
    row = measure(pair, batch=2, context=24, repeats=3, lookahead=None)
    assert (row.kernels, row.batch, row.context) == (False, 2, 24)
    assert len(row.helix) == len(row.mlx_lm) == 3
    ratios = sorted(ours / theirs for ours, theirs in zip(row.helix, row.mlx_lm, strict=True))
    assert (row.ratio.low, row.ratio.median, row.ratio.high) == tuple(ratios)
