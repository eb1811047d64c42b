"""No table of costs, batch, context or drafter makes the choice of drafts fail, or go beyond what a cycle holds."""

from __future__ import annotations

import json
import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from helix_mlx.config import EngineConfig
from helix_mlx.engine.engine import Engine
from helix_mlx.engine.scheduling.draft_policy import AdaptiveDraftPolicy
from helix_mlx.engine.scheduling.draft_state import NO_LIMIT, DraftState
from helix_mlx.engine.scheduling.scheduler import Limits, Scheduler
from helix_mlx.engine.scheduling.sequence import KVState, Sequence
from helix_mlx.request import MAX_DRAFT_TOKENS, SamplingParams
from helix_mlx.speculative.cost_model import CostTable
from helix_mlx.speculative.draft_length import could_pay
from helix_mlx.speculative.drafter import Needs
from helix_mlx.speculative.registry import candidates
from tests.support import prompt, random_pair

ROWS = range(MAX_DRAFT_TOKENS + 1)
TABLES = 5000
NEVER_PAYS = CostTable(tuple(1e-3 * (1 + 1.2 * row) for row in ROWS), draft_s=5e-4, draft_read_s=1e-4)


def random_table(chance: random.Random) -> CostTable:
    """CostModel that are flat, rise in any way, or are noise."""
    scale, slope = 10 ** chance.uniform(-5, 2), chance.choice((0.0, 0.02, 0.2, 1.0, 1.2, 5.0))
    shape = chance.choice(("linear", "steps", "steep", "noisy"))
    rows = [1.0 + slope * row for row in ROWS]
    if shape == "steps":
        rows = [1.0 + slope * (row // chance.randint(1, 4)) for row in ROWS]
    if shape == "steep":
        rows = [(1.0 + slope) ** row for row in ROWS]
    if shape == "noisy":
        rows = [each * chance.lognormvariate(0.0, 1.0) for each in rows]
    draft = chance.choice((0.0, 0.05, 0.5, 3.0))
    return CostTable(tuple(scale * each for each in rows), scale * draft, scale * draft / 32)


def random_sequence(chance: random.Random) -> Sequence:
    """One in the middle of its answer, whose text may repeat itself and whose draft may have missed some of it."""
    length = int(2 ** chance.uniform(2, 7 if chance.random() < 0.95 else 12))
    period = chance.choice((3, 10, 10**6))
    drafter = chance.choice(("auto", "auto", "model", "ngram", "none"))
    fixed = None if chance.random() < 0.8 else chance.randint(0, MAX_DRAFT_TOKENS)
    specs = candidates(drafter, Needs.DRAFT_MODEL)
    made = Sequence(
        tokens=[token % period for token in range(length)],
        prompt_tokens=max(1, length - 3),
        params=SamplingParams(temperature=chance.choice((0.0, 0.7, 1.0, 5.0))),
        max_new=4 + chance.choice((0, 1, 5, 500)),
        seed=0,
        eos_ids=frozenset(),
        answer=None,  # type: ignore[arg-type]
        kv=KVState(SimpleNamespace(pages=[])),  # type: ignore[arg-type]
        pages_most=10**6,
        drafting=DraftState.of(drafter, specs, 0 if drafter == "none" else fixed),
    )
    made.drafting.max_context = chance.choice((NO_LIMIT, length, length + 9, 8))
    made.kv.target_length = made.length
    made.kv.draft_length = chance.choice((made.length - 1, made.length // 2, 0))
    return made


def run_table(number: int) -> None:
    """Some cycles of a random batch on a random table; asserts that each is one that can be run."""
    chance = random.Random(number)
    table, max_rows = random_table(chance), chance.randint(1, 64)
    sequences = [random_sequence(chance) for _ in range(chance.randint(1, min(16, max_rows)))]
    for arrival, sequence in enumerate(sequences):
        sequence.arrival = arrival
    scheduler: Scheduler[Sequence] = Scheduler(Limits(16, 10**9, len(sequences), 10**6, max_rows))
    scheduler.running = list(sequences)
    policy = AdaptiveDraftPolicy(table, measured=chance.random() < 0.8)
    true = table if chance.random() < 0.5 else random_table(chance)
    kept_share, noise = chance.choice((0.0, 0.0, 0.5, 1.0, 1.0)), chance.choice((0.0, 0.05, 1.0))
    for _ in range(6):
        decoding = [s for s in sequences if s.remaining > 0]
        if not decoding:
            break
        scheduler.running = list(decoding)
        most = scheduler.most_drafts(len(decoding))
        policy.choose(decoding, most)
        outcomes = []
        for sequence, count in scheduler.plan().decode:
            open_ = sequence.drafting.is_adaptive
            assert 0 <= count <= min(most, MAX_DRAFT_TOKENS), f"K = {count} where {most} is the most"
            assert (count + 1) * len(decoding) <= max_rows or not count
            assert not open_ or count <= max(s.remaining for s in decoding) - 1 or not count
            kept = sum(1 for _ in range(count) if chance.random() < kept_share)
            outcomes.append((sequence, count, kept))
        widest = max(count for _, count, _ in outcomes)
        if widest and all(s.drafting.is_adaptive for s in decoding) and policy._costs_of(decoding).cost_table is table:
            assert len(decoding) > 1 or could_pay(most, table.cycle_s(0), lambda k: table.cycle_s(k, False)) or noise
        seconds = true.for_batch(len(decoding)).cycle_s(widest) * chance.lognormvariate(0.0, noise)
        policy.note(
            outcomes,
            any(s.drafting.next_drafter == "model" and k for s, k, _ in outcomes),
            chance.choice((None, seconds)),
        )
        for sequence, _, kept in outcomes:
            sequence.tokens += [chance.randrange(5) for _ in range(min(kept + 1, sequence.remaining))]
            sequence.kv.target_length = sequence.length
        if all(s.remaining > 0 for s in decoding):
            policy.wants_drafts(decoding, most)


def run_tables(numbers: range) -> None:
    for number in numbers:
        run_table(number)


@pytest.mark.parametrize("part", range(10))
def test_every_table_gives_a_cycle_that_can_be_run(part: int) -> None:
    run_tables(range(part * TABLES // 10, (part + 1) * TABLES // 10))


def test_a_bound_by_rows_alone_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """15 drafts for one answer, by 16 rows, of which a table knows 7."""
    monkeypatch.setattr(Scheduler, "most_drafts", lambda self, decoding: self.limits.max_rows // max(1, decoding) - 1)
    with pytest.raises(AssertionError, match=r"a table of K = 0\.\.7 was asked for K = "):
        run_tables(range(TABLES))


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("max_rows", [1, 2, 16, 64])
def test_where_drafts_never_pay_the_engine_decodes_plainly(max_rows: int, temperature: float) -> None:
    with Engine(random_pair(), EngineConfig(max_context=128, max_rows=max_rows)) as engine:
        settings: Any = {"max_tokens": 24, "temperature": temperature, "seed": 1 if temperature else None}
        expected = engine.generate(prompt(9), draft_tokens=0, **settings).tokens
        engine._core.draft_policy.begin(NEVER_PAYS, measured=True)
        done = engine.generate(prompt(9), **settings)
        assert done.tokens == expected
        assert engine.config.max_sequences == min(16, max_rows)
        if max_rows < 3:
            assert done.stats.drafted == 0


@pytest.mark.parametrize("max_rows", [1, 2, 5])
def test_costs_of_every_k_are_measured_however_few_rows_a_pass_has(tmp_path: Path, max_rows: int) -> None:
    with Engine(random_pair(), EngineConfig(max_context=256, max_rows=max_rows)) as engine:
        told: list[str] = []
        engine.calibrate(tmp_path, told.append)
        (file,) = tmp_path.glob("*.json")
        assert len(json.loads(file.read_text())["cost_table"]["target_s"]) == MAX_DRAFT_TOKENS + 1
        assert engine.generate(prompt(9), max_tokens=20).stats.drafted == 0 or max_rows > 2


def test_a_context_too_short_to_measure_in_keeps_the_estimate(tmp_path: Path) -> None:
    with Engine(random_pair(), EngineConfig(max_context=12)) as engine:
        told: list[str] = []
        before = engine.cost_table
        assert engine.calibrate(tmp_path, told.append) == before
        assert "too short" in told[-1]
        assert engine.generate(prompt(4), max_tokens=8).stats.emitted == 8
