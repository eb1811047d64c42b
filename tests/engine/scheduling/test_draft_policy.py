"""Who drafts in the next cycle: over sequences made by hand, with costs made by hand."""

from __future__ import annotations

import pytest

from helix_mlx.engine.scheduling.draft_policy import PLAIN_BASELINE, AdaptiveDraftPolicy, estimated_cost_table
from helix_mlx.engine.scheduling.draft_state import NO_LIMIT, DraftState
from helix_mlx.engine.scheduling.sequence import KVState, Sequence
from helix_mlx.request import SamplingParams
from helix_mlx.speculative.cost_model import CostModel, CostTable
from helix_mlx.speculative.drafter import Needs
from helix_mlx.speculative.registry import candidates

CHEAP_ROWS = CostTable((1.0, 1.05, 1.1, 1.15, 1.2, 1.25, 1.3, 1.35), draft_s=0.05, draft_read_s=0.01)
DEAR_ROWS = CostTable(tuple(float(rows) for rows in range(1, 9)), draft_s=0.5, draft_read_s=0.1)
USUAL_ROWS = CostTable((1.0, 1.1, 1.2, 1.3, 1.5, 1.9, 2.1, 2.3), draft_s=0.2, draft_read_s=0.02)
REPEATING = [1, 2, 3, 4, 5, 6, 7, 8, 9] * 5
PLAIN = list(range(40))


def sequence(
    tokens: list[int], drafter: str = "auto", draft_tokens: int | None = None, max_context: int = NO_LIMIT
) -> Sequence:
    """One in the middle of its answer, whose draft model has read what it may."""
    specs = candidates(drafter, Needs.DRAFT_MODEL)
    made = Sequence(
        tokens=tokens,
        prompt_tokens=10,
        params=SamplingParams(),
        max_new=500,
        seed=0,
        eos_ids=frozenset(),
        answer=None,  # type: ignore[arg-type]
        kv=KVState(table=None),  # type: ignore[arg-type]
        pages_most=99,
        drafting=DraftState.of(drafter, specs, draft_tokens),
    )
    made.drafting.max_context = max_context
    made.kv.draft_length = made.length - 1
    return made


def run(policy: AdaptiveDraftPolicy, sequences: list[Sequence], kept: int, cycles: int, most: int = 7) -> list[int]:
    """Cycles in which so many drafts are kept, at most; returns the largest K of each."""
    counts = []
    for _ in range(cycles):
        policy.choose(sequences, most)
        outcomes = [(s, s.drafting.next_draft_tokens, min(kept, s.drafting.next_draft_tokens)) for s in sequences]
        policy.note(
            outcomes, any(s.drafting.next_drafter == "model" and s.drafting.next_draft_tokens for s in sequences), None
        )
        counts.append(max(count for _, count, _ in outcomes))
    return counts


def test_good_drafts_are_asked_for_and_bad_ones_are_not() -> None:
    assert min(run(AdaptiveDraftPolicy(CHEAP_ROWS, measured=True), [sequence(PLAIN)], kept=7, cycles=20)[5:]) == 7
    bad = run(AdaptiveDraftPolicy(USUAL_ROWS, measured=True), [sequence(PLAIN)], kept=0, cycles=100)
    assert sum(count > 0 for count in bad[10:]) <= 3
    assert max(run(AdaptiveDraftPolicy(DEAR_ROWS, measured=True), [sequence(PLAIN)], kept=7, cycles=5)) == 0


@pytest.mark.parametrize("cost_table", [CHEAP_ROWS, USUAL_ROWS, DEAR_ROWS])
def test_drafts_that_are_never_kept_cost_three_percent_of_an_answer_at_most(cost_table: CostTable) -> None:
    counts = run(AdaptiveDraftPolicy(cost_table, measured=True), [sequence(PLAIN)], kept=0, cycles=200)
    plain_s = cost_table.cycle_s(0)
    assert sum(cost_table.cycle_s(count) - plain_s for count in counts) <= 0.03 * 200 * plain_s


def test_what_repeats_is_looked_up_instead() -> None:
    one = sequence(REPEATING)
    policy = AdaptiveDraftPolicy(CHEAP_ROWS, measured=True)
    run(policy, [one], kept=7, cycles=30)
    assert (one.drafting.next_drafter, one.drafting.next_draft_tokens) == ("ngram", 7)
    other = sequence(PLAIN)
    policy.choose([other], 7)
    assert other.drafting.next_drafter == "model"


def test_a_drafter_that_was_named_is_the_only_one_asked() -> None:
    one = sequence(REPEATING, drafter="model")
    run(AdaptiveDraftPolicy(CHEAP_ROWS, measured=True), [one], kept=7, cycles=10)
    assert one.drafting.next_drafter == "model"
    other = sequence(PLAIN, drafter="ngram")
    assert run(AdaptiveDraftPolicy(CHEAP_ROWS, measured=True), [other], kept=7, cycles=10) == [0] * 10


def test_a_draft_length_of_ones_own_is_left_alone() -> None:
    fixed = sequence(PLAIN, drafter="model", draft_tokens=3)
    run(AdaptiveDraftPolicy(DEAR_ROWS, measured=True), [fixed, sequence(PLAIN)], kept=0, cycles=30)
    assert (fixed.drafting.next_drafter, fixed.drafting.next_draft_tokens) == ("model", 3)


def test_rows_that_are_there_anyway_cost_nothing_more() -> None:
    """Where another sequence makes the pass wide, drafts that would not pay alone do."""
    alone, beside = sequence(PLAIN), sequence(PLAIN)
    run(AdaptiveDraftPolicy(DEAR_ROWS, measured=True), [alone], kept=4, cycles=40)
    run(
        AdaptiveDraftPolicy(DEAR_ROWS, measured=True),
        [beside, sequence(PLAIN, drafter="model", draft_tokens=4)],
        kept=4,
        cycles=40,
    )
    assert alone.drafting.next_draft_tokens == 0
    assert beside.drafting.next_draft_tokens >= 4


def test_rows_and_positions_are_bounded() -> None:
    assert max(run(AdaptiveDraftPolicy(CHEAP_ROWS, measured=True), [sequence(PLAIN)], kept=7, cycles=20, most=3)) == 3
    assert max(run(AdaptiveDraftPolicy(CHEAP_ROWS, measured=True), [sequence(PLAIN)], kept=7, cycles=20, most=0)) == 0
    near_its_end = sequence(PLAIN, drafter="model", max_context=len(PLAIN) + 5)
    assert 0 < max(run(AdaptiveDraftPolicy(CHEAP_ROWS, measured=True), [near_its_end], kept=7, cycles=20)) <= 2
    past_it = sequence(PLAIN, drafter="model", max_context=20)
    assert max(run(AdaptiveDraftPolicy(CHEAP_ROWS, measured=True), [past_it], kept=7, cycles=20)) == 0


def test_one_who_has_nothing_to_offer_has_no_drafts_in_a_wide_pass() -> None:
    repeats, not_ = sequence(REPEATING, drafter="ngram"), sequence(PLAIN, drafter="ngram")
    run(AdaptiveDraftPolicy(CHEAP_ROWS, measured=True), [repeats, not_], kept=7, cycles=20)
    assert (repeats.drafting.next_draft_tokens, not_.drafting.next_draft_tokens) == (7, 0)


def test_a_new_sequence_begins_with_what_is_usual() -> None:
    policy = AdaptiveDraftPolicy(USUAL_ROWS, measured=True)
    run(policy, [sequence(PLAIN)], kept=0, cycles=20)
    counts = run(policy, [sequence(PLAIN)], kept=0, cycles=20)
    assert sum(count > 0 for count in counts) <= 2


def test_prompts_that_begin_alike_share_what_is_usual() -> None:
    """Of two programs with a system prompt each, one has drafts that are kept: what is usual of both says nothing."""
    policy = AdaptiveDraftPolicy(USUAL_ROWS, measured=True)
    good, bad = [1] * 10, [2] * 10
    for number in range(4):
        run(policy, [sequence([*good, *PLAIN[number:]])], kept=7, cycles=12)
        run(policy, [sequence([*bad, *PLAIN[number:]])], kept=0, cycles=12)
    assert run(policy, [sequence([*good, 99, *PLAIN])], kept=7, cycles=1)[0] >= 3
    assert run(policy, [sequence([*bad, 99, *PLAIN])], kept=0, cycles=1)[0] <= 1


def test_an_answer_that_is_not_like_those_before_it_is_found_out_soon() -> None:
    policy = AdaptiveDraftPolicy(USUAL_ROWS, measured=True)
    run(policy, [sequence(PLAIN)], kept=0, cycles=40)
    assert min(run(policy, [sequence(PLAIN)], kept=7, cycles=20)[8:]) >= 3


def test_one_that_joins_others_does_not_make_all_of_them_try() -> None:
    policy, others = AdaptiveDraftPolicy(CHEAP_ROWS, measured=True), [sequence(PLAIN) for _ in range(3)]
    run(policy, others, kept=0, cycles=60)
    run(policy, [*others, sequence(PLAIN)], kept=0, cycles=100)
    joined = [*others, sequence(PLAIN)]
    assert run(policy, joined, kept=0, cycles=3) == [0] * 3
    assert max(run(policy, [sequence(PLAIN) for _ in range(4)], kept=0, cycles=3)) > 0


def test_looking_ahead_decides_nothing() -> None:
    policy, one = AdaptiveDraftPolicy(CHEAP_ROWS, measured=True), sequence(PLAIN)
    assert policy.wants_drafts([one], 7)
    assert policy.wants_drafts([one], 7)
    policy.choose([one], 7)
    assert one.drafting.next_draft_tokens > 0
    parked = AdaptiveDraftPolicy(DEAR_ROWS, measured=True)
    assert not parked.wants_drafts([one], 7)
    assert not parked.wants_drafts([sequence(PLAIN, draft_tokens=4)], 7)


def test_what_cycles_take_moves_the_choice() -> None:
    """A cost table that promised cheap rows is overruled by cycles that were not."""
    policy, one = AdaptiveDraftPolicy(CHEAP_ROWS), sequence(PLAIN, drafter="model")
    for _ in range(200):
        policy.choose([one], 7)
        seconds = 1.0 if not one.drafting.next_draft_tokens else 1.0 + 1.5 * one.drafting.next_draft_tokens
        kept = min(one.drafting.next_draft_tokens, 1)
        policy.note([(one, one.drafting.next_draft_tokens, kept)], one.drafting.next_draft_tokens > 0, seconds)
    assert one.drafting.next_draft_tokens == 0


def test_where_nothing_could_pay_cycles_are_still_measured_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    noted: list[float] = []
    monkeypatch.setattr(CostModel, "note", lambda self, count, uses_model, seconds: noted.append(seconds))
    policy, one = AdaptiveDraftPolicy(DEAR_ROWS, measured=True), sequence(PLAIN)
    policy.choose([one], 7)
    for _ in range(80):
        assert not policy.wants_drafts([one], 7)
        policy.note([(one, 0, 0)], False, 1.0)
    assert len(noted) == 10


def test_the_choice_is_told() -> None:
    one = sequence(PLAIN)
    AdaptiveDraftPolicy(CHEAP_ROWS, measured=True).choose([one], 7)
    assert "times plain decoding" in one.stats.draft_choice
    AdaptiveDraftPolicy(CHEAP_ROWS, measured=False).choose([one], 7)
    assert (one.drafting.next_draft_tokens, one.stats.draft_choice) == (0, PLAIN_BASELINE)
    AdaptiveDraftPolicy(DEAR_ROWS, measured=True).choose([one], 7)
    assert "not pay" in one.stats.draft_choice


@pytest.mark.parametrize("share", [0.0, 0.1, 1.0])
def test_an_estimate_begins_where_nothing_was_measured(share: float) -> None:
    cost_table = estimated_cost_table(share)
    assert cost_table.draft_s == share
    assert list(cost_table.target_s) == sorted(cost_table.target_s)
