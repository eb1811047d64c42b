"""With a seed the text is the same token for token, whatever drafts and in whatever company."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest

from helix_mlx.request import SamplingParams
from helix_mlx.sampling.filters import Filters, filtered_probs
from helix_mlx.sampling.noise import gumbel
from tests.speculative.verification.markov import Drafter, Markov, Sequences, generate

MODEL = Markov.unrelated(11, seed=3)
SETTINGS = [
    SamplingParams(temperature=1.0),
    SamplingParams(temperature=0.8),
    SamplingParams(temperature=1.2, top_k=4, top_p=0.9),
    SamplingParams(temperature=0.8, min_p=0.1),
]
SEEDS = np.array([1, 2, 3, 1])
LENGTH = 40


def direct(seed: int, params: SamplingParams) -> list[int]:
    """The definition, one token at a time: argmax of log p and the noise of the token's position."""
    probs = filtered_probs(MODEL.target_logits[None], Filters.of([params]))[0]
    text, last = [], 0
    for step in range(LENGTH):
        noise = gumbel(mx.array([seed], mx.uint32), mx.array([[4 + step]], mx.int32), MODEL.vocab)[0, 0]
        last = int(np.argmax(np.array(mx.log(probs[last]) + noise)))
        text.append(last)
    return text


EXPECTED = [(int(seed), params) for seed, params in zip(SEEDS, SETTINGS, strict=True)]


@pytest.fixture(scope="module")
def expected() -> list[list[int]]:
    return [direct(seed, params) for seed, params in EXPECTED]


def _drafts() -> list[mx.array]:
    return [MODEL.draft_logits, MODEL.target_logits, -MODEL.target_logits]


@pytest.mark.parametrize("counts", [[0], [1], [2], [4], [7], [3, 0, 7, 1]], ids=str)
def test_the_text_is_the_definitions(expected: list[list[int]], counts: list[int]) -> None:
    for draft_logits in _drafts():
        model = Markov(MODEL.target_logits, draft_logits)
        running = Sequences.start(SEEDS, SETTINGS, ["coupled"] * 4)
        text, rate = generate(model, running, counts, LENGTH)
        assert text.tolist() == expected
        if draft_logits is MODEL.target_logits and len(counts) == 1:
            assert rate == counts[0] + 1, "the draft is the target, so all is kept"


@pytest.mark.parametrize("drafter", ["model", "one-hot"])
def test_alone_and_with_a_drafter_that_takes_no_chances(expected: list[list[int]], drafter: Drafter) -> None:
    for row in range(4):
        running = Sequences.start(SEEDS[row : row + 1], [SETTINGS[row]], ["coupled"])
        assert generate(MODEL, running, [4], LENGTH, drafter)[0].tolist() == [expected[row]]
