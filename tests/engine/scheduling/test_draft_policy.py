"""Who drafts in the next cycle: over sequences made by hand, with costs made by hand."""

from __future__ import annotations

import pytest

from helix_mlx.engine.scheduling.draft_policy import PLAIN_BASELINE, AdaptiveDraftPolicy, estimated_ladder
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


def run(drafting: AdaptiveDraftPolicy, sequences: list[Sequence], kept: int, cycles: int, most: int = 7) -> list[int]:
    """Cycles in which so many drafts are kept, at most; returns the largest K of each."""
    counts = []
    for _ in range(cycles):
        drafting.choose(sequences, most)
        flown = [(s, s.drafting.next_draft_tokens, min(kept, s.drafting.next_draft_tokens)) for s in sequences]
        drafting.note(
            flown, any(s.drafting.next_drafter == "model" and s.drafting.next_draft_tokens for s in sequences), None
        )
        counts.append(max(count for _, count, _ in flown))
    return counts


def test_good_drafts_are_asked_for_and_bad_ones_are_not() -> None:
    assert min(run(AdaptiveDraftPolicy(CHEAP_ROWS, measured=True), [sequence(PLAIN)], kept=7, cycles=20)[5:]) == 7
    bad = run(AdaptiveDraftPolicy(USUAL_ROWS, measured=True), [sequence(PLAIN)], kept=0, cycles=100)
    assert sum(count > 0 for count in bad[10:]) <= 3
    assert max(run(AdaptiveDraftPolicy(DEAR_ROWS, measured=True), [sequence(PLAIN)], kept=7, cycles=5)) == 0


@pytest.mark.parametrize("ladder", [CHEAP_ROWS, USUAL_ROWS, DEAR_ROWS])
def test_drafts_that_are_never_kept_cost_three_percent_of_an_answer_at_most(ladder: CostTable) -> None:
    counts = run(AdaptiveDraftPolicy(ladder, measured=True), [sequence(PLAIN)], kept=0, cycles=200)
    plain_s = ladder.cycle_s(0)
    assert sum(ladder.cycle_s(count) - plain_s for count in counts) <= 0.03 * 200 * plain_s


def test_what_repeats_is_looked_up_instead() -> None:
    one = sequence(REPEATING)
    drafting = AdaptiveDraftPolicy(CHEAP_ROWS, measured=True)
    run(drafting, [one], kept=7, cycles=30)
    assert (one.drafting.next_drafter, one.drafting.next_draft_tokens) == ("ngram", 7)
    other = sequence(PLAIN)
    drafting.choose([other], 7)
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
    drafting = AdaptiveDraftPolicy(USUAL_ROWS, measured=True)
    run(drafting, [sequence(PLAIN)], kept=0, cycles=20)
    counts = run(drafting, [sequence(PLAIN)], kept=0, cycles=20)
    assert sum(count > 0 for count in counts) <= 2


def test_prompts_that_begin_alike_share_what_is_usual() -> None:
    """Of two programs with a system prompt each, one has drafts that are kept: what is usual of both says nothing."""
    drafting = AdaptiveDraftPolicy(USUAL_ROWS, measured=True)
    good, bad = [1] * 10, [2] * 10
    for number in range(4):
        run(drafting, [sequence([*good, *PLAIN[number:]])], kept=7, cycles=12)
        run(drafting, [sequence([*bad, *PLAIN[number:]])], kept=0, cycles=12)
    assert run(drafting, [sequence([*good, 99, *PLAIN])], kept=7, cycles=1)[0] >= 3
    assert run(drafting, [sequence([*bad, 99, *PLAIN])], kept=0, cycles=1)[0] <= 1


def test_an_answer_that_is_not_like_those_before_it_is_found_out_soon() -> None:
    drafting = AdaptiveDraftPolicy(USUAL_ROWS, measured=True)
    run(drafting, [sequence(PLAIN)], kept=0, cycles=40)
    assert min(run(drafting, [sequence(PLAIN)], kept=7, cycles=20)[8:]) >= 3


def test_one_that_joins_others_does_not_make_all_of_them_try() -> None:
    drafting, others = AdaptiveDraftPolicy(CHEAP_ROWS, measured=True), [sequence(PLAIN) for _ in range(3)]
    run(drafting, others, kept=0, cycles=60)
    run(drafting, [*others, sequence(PLAIN)], kept=0, cycles=100)
    joined = [*others, sequence(PLAIN)]
    assert run(drafting, joined, kept=0, cycles=3) == [0] * 3
    assert max(run(drafting, [sequence(PLAIN) for _ in range(4)], kept=0, cycles=3)) > 0


def test_looking_ahead_decides_nothing() -> None:
    drafting, one = AdaptiveDraftPolicy(CHEAP_ROWS, measured=True), sequence(PLAIN)
    assert drafting.wants_drafts([one], 7)
    assert drafting.wants_drafts([one], 7)
    drafting.choose([one], 7)
    assert one.drafting.next_draft_tokens > 0
    parked = AdaptiveDraftPolicy(DEAR_ROWS, measured=True)
    assert not parked.wants_drafts([one], 7)
    assert not parked.wants_drafts([sequence(PLAIN, draft_tokens=4)], 7)


def test_what_cycles_take_moves_the_choice() -> None:
    """A ladder that promised cheap rows is overruled by cycles that were not."""
    drafting, one = AdaptiveDraftPolicy(CHEAP_ROWS), sequence(PLAIN, drafter="model")
    for _ in range(200):
        drafting.choose([one], 7)
        seconds = 1.0 if not one.drafting.next_draft_tokens else 1.0 + 1.5 * one.drafting.next_draft_tokens
        kept = min(one.drafting.next_draft_tokens, 1)
        drafting.note([(one, one.drafting.next_draft_tokens, kept)], one.drafting.next_draft_tokens > 0, seconds)
    assert one.drafting.next_draft_tokens == 0


def test_where_nothing_could_pay_cycles_are_still_measured_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    noted: list[float] = []
    monkeypatch.setattr(CostModel, "note", lambda self, count, uses_model, seconds: noted.append(seconds))
    drafting, one = AdaptiveDraftPolicy(DEAR_ROWS, measured=True), sequence(PLAIN)
    drafting.choose([one], 7)
    for _ in range(80):
        assert not drafting.wants_drafts([one], 7)
        drafting.note([(one, 0, 0)], False, 1.0)
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
    ladder = estimated_ladder(share)
    assert ladder.draft_s == share
    assert list(ladder.target_s) == sorted(ladder.target_s)
