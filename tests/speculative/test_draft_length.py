"""The draft length that pays, on the cost tables that are shipped and on texts of all kinds: by a simulated clock."""

from __future__ import annotations

import subprocess
import sys

import pytest

from helix_mlx.bench.policy.simulation import compare, cost_tables, traces
from helix_mlx.speculative.acceptance import Acceptance
from helix_mlx.speculative.cost_model import CostTable
from helix_mlx.speculative.draft_length import NO_DRAFT, Candidate, DraftLengthController
from helix_mlx.speculative.registry import MODEL, NGRAM

COSTS = CostTable((1.0, 1.05, 1.1, 1.2, 1.3, 1.8, 2.0, 2.2), draft_s=0.1)


def known(kept: int, drafted: int = 4) -> Acceptance:
    acceptance = Acceptance()
    for _ in range(60):
        acceptance.note(drafted, kept)
    return acceptance


@pytest.mark.parametrize("draft_cost", [0.05, 0.2])
@pytest.mark.parametrize("name", ["m3-max", "m4-pro", "m5-max"])
def test_it_never_loses_and_regrets_little(name: str, draft_cost: float) -> None:
    cost_table = cost_tables(draft_cost)[name]
    for kind, trace in traces(1500).items():
        found = [compare(trace, cost_table, seed) for seed in range(2)]
        speeds = {key: sum(each[key] for each in found) / len(found) for key in found[0]}
        auto = speeds.pop("auto")
        assert auto >= 0.98 * speeds["0"], kind
        assert auto >= 0.95 * max(speeds.values()), kind


def test_the_best_drafter_is_asked() -> None:
    length = DraftLengthController()
    model = Candidate(MODEL, known(2), 7, COSTS.cycle_s)
    ngram = Candidate(NGRAM, known(2), 7, lambda count: COSTS.cycle_s(count, uses_model=False))
    assert length.choose([model, ngram], 1.0, 100).drafter == NGRAM
    absent = Candidate(NGRAM, known(2), 0, COSTS.cycle_s)
    assert length.choose([model, absent], 1.0, 100).drafter == MODEL
    assert length.choose([], 1.0, 100) == DraftLengthController().choose([absent], 1.0, 100)


def test_no_drafts_where_they_do_not_pay() -> None:
    length = DraftLengthController()
    choice = length.choose([Candidate(MODEL, known(0), 7, COSTS.cycle_s)], 1.0, 100)
    assert (choice.drafter, choice.count) == (NO_DRAFT, 0)
    assert "not pay" in choice.reason


def test_nothing_is_drafted_behind_the_end() -> None:
    for left in range(1, 6):
        assert (
            DraftLengthController().choose([Candidate(MODEL, known(4), 7, COSTS.cycle_s)], 1.0, left).count <= left - 1
        )


def test_reading_a_long_text_has_to_pay_in_a_short_answer() -> None:
    candidate = Candidate(MODEL, known(4), 7, COSTS.cycle_s, catch_up_s=20.0)
    assert DraftLengthController().choose([candidate], 1.0, 8).count == 0
    assert DraftLengthController().choose([Candidate(MODEL, known(4), 7, COSTS.cycle_s)], 1.0, 8).count > 0


def test_a_draft_that_has_become_good_is_found_again() -> None:
    length, acceptance = DraftLengthController(), known(0)
    candidate = Candidate(MODEL, acceptance, 7, COSTS.cycle_s)
    counts = []
    for _ in range(400):
        count = length.choose([candidate], 1.0, 1000).count
        if count:
            acceptance.note(count, count)
            length.note(count, count)
        counts.append(count)
    assert counts[0] == 0
    assert counts[-1] >= 3


def test_tries_that_are_kept_end_where_more_drafts_would_not_pay() -> None:
    """Five rows and more would pay if nearly all were kept; one would not, and is what is tried."""
    dear = CostTable((1.0, 2.2, 3.3, 4.2, 4.7, 5.5, 6.3, 7.1), draft_s=0.0)
    length, acceptance = DraftLengthController(), known(0)
    length.begin()
    tries = 0
    for _ in range(200):
        count = length.choose([Candidate(MODEL, acceptance, 7, dear.cycle_s)], 1.0, 1000).count
        if count:
            kept = min(count, 1)
            acceptance.note(count, kept)
            length.note(count, kept)
            tries += 1
        else:
            length.note(0, 0)
    assert tries <= 8


def test_a_new_answer_begins_a_new_chain_of_tries() -> None:
    """Two kept tries in the last answer take nothing from the tries of this one."""
    dear = CostTable((1.0, 2.2, 3.3, 4.2, 4.7, 5.5, 6.3, 7.1), draft_s=0.0)

    def tries(length: DraftLengthController, most: int) -> int:
        acceptance = known(0)
        length.begin()
        for count in range(most):
            if not length.choose([Candidate(MODEL, acceptance, 7, dear.cycle_s)], 1.0, 1000).count:
                return count
            length.note(1, 1)
        return most

    length = DraftLengthController()
    assert tries(length, 2) == 2
    assert tries(length, 9) == tries(DraftLengthController(), 9)


def test_drafts_that_would_gain_next_to_nothing_are_not_tried() -> None:
    dear = CostTable(tuple(rows * 0.97 for rows in range(1, 9)), draft_s=0.0)
    length = DraftLengthController()
    length.begin()
    assert {length.choose([Candidate(MODEL, known(0), 7, dear.cycle_s)], 0.97, 1000).count for _ in range(500)} == {0}


def test_it_needs_no_mlx() -> None:
    program = "import sys, helix_mlx.speculative.draft_length; assert 'mlx.core' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True)
