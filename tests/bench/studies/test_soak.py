"""The soak for a moment: it finds nothing in an engine that is well, and says what is wrong with one that is not."""

from __future__ import annotations

import random

import pytest

from helix_mlx.bench.studies.soak import (
    CONTEXT,
    PAGE,
    Moment,
    Outcome,
    SampledAnswer,
    Soak,
    close_in_the_midst,
    differing,
    growth,
    judge,
    make_pair,
    random_request,
)
from helix_mlx.config import EngineConfig
from helix_mlx.engine.engine import Engine
from helix_mlx.request import SamplingParams


def test_a_moment_of_load_leaves_nothing_behind() -> None:
    pair = make_pair()
    engine = Engine(pair, EngineConfig(max_context=CONTEXT, max_sequences=12, page_size=PAGE, prefill_chunk=64))
    soak = Soak(engine, seed=5)  # its first burst has some answers that can be held to others
    soak.run(0.3)
    outcome, metrics = soak.outcome, engine.metrics()
    took, untold = close_in_the_midst(engine)
    assert outcome.submitted
    assert outcome.finished + outcome.cancelled >= outcome.submitted
    assert not outcome.errors
    assert metrics.pages_used == 0
    assert untold == 0
    assert took > 0
    sample = outcome.sample[:3]
    assert sample
    assert differing(pair, sample) == 0
    wrong = SampledAnswer(sample[0].prompt, sample[0].params, [*sample[0].tokens[:-1], -1])
    assert differing(pair, [wrong]) == 1


def test_a_seed_is_a_load() -> None:
    requests = [[random_request(random.Random(seed), [1, 2]) for _ in range(5)] for seed in (3, 3, 4)]
    assert requests[0] == requests[1] != requests[2]


def test_growth_is_of_the_last_third_by_the_first_without_the_beginning() -> None:
    moments = [Moment(float(at), 0 if at < 1 else 100 + 10 * at, 50) for at in range(10)]
    assert growth(moments, "active") == 0.0
    assert growth(moments, "resident") == pytest.approx(180 / 120 - 1)
    assert growth(moments[:1] * 2, "active") == 0.0


def test_anything_lost_or_left_is_a_limit_that_is_not_met() -> None:
    kept = SampledAnswer([1], SamplingParams(), [2])
    outcome = Outcome(sample=[kept], memory=[Moment(float(at), 100, 100) for at in range(10)])
    assert all(line.met for line in judge(outcome, held=0, preempted=1, differ=0))
    for held, preempted, differ in ((1, 1, 0), (0, 0, 0), (0, 1, 1)):
        assert sum(not line.met for line in judge(outcome, held, preempted, differ)) == 1
    outcome.errors.append("lost")
    outcome.memory += [Moment(float(at), 200, 200) for at in range(10)]
    assert sum(not line.met for line in judge(outcome, held=0, preempted=1, differ=0)) == 3
