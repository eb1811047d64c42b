"""Whose turn it is, rule by rule."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass, replace

import pytest

from helix_mlx.engine.scheduling.scheduler import Limits, Scheduler, pages_to_add

PAGE = 4


@dataclass(eq=False)
class Fake:
    """A sequence of so many known tokens; what it holds is set by hand."""

    arrival: int
    length: int = 8
    priority: int = 0
    target_length: int = 0
    draft_length: int = 0
    pages_held: int = 0
    pages_most: int = 10
    emitted_count: int = 0
    draft_wanted: int = 0

    @property
    def draft_prefill_needed(self) -> int:
        return max(0, self.length - 1 - self.draft_length)


def decoding(arrival: int, length: int = 9, draft_wanted: int = 0, priority: int = 0, behind: int = 0) -> Fake:
    """A sequence in the middle of its answer; its draft has yet to read `behind` tokens."""
    return Fake(
        arrival=arrival,
        length=length,
        priority=priority,
        target_length=length,
        draft_length=length - 1 - behind,
        pages_held=length // PAGE,
        emitted_count=3,
        draft_wanted=draft_wanted,
    )


def scheduler(
    pages: int = 99, sequences: int = 8, prefill: int = 16, rows: int = 32, lookahead: int = 0
) -> Scheduler[Fake]:
    return Scheduler(Limits(PAGE, pages, sequences, prefill, rows, lookahead))


def running(
    *sequences: Fake, pages: int = 99, prefill: int = 16, rows: int = 32, lookahead: int = 0
) -> Scheduler[Fake]:
    """A scheduler with these sequences under way."""
    made = scheduler(pages, prefill=prefill, rows=rows, lookahead=lookahead)
    made.running.extend(sequences)
    return made


def prompt_pages(sequence: Fake) -> int:
    return sequence.length // PAGE


def held(sequence: Fake) -> int:
    return sequence.pages_held


def test_it_imports_no_mlx() -> None:
    check = (
        "import sys, helix_mlx.engine.scheduling.scheduler\n"
        "sys.exit(any(m.split('.')[0].startswith('mlx') for m in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0


def test_limits_leave_everybody_a_row_and_a_token() -> None:
    with pytest.raises(AssertionError):
        Limits(PAGE, 10, max_sequences=5, prefill_tokens=1, max_rows=4)
    with pytest.raises(AssertionError):
        Limits(PAGE, 10, max_sequences=1, prefill_tokens=0, max_rows=4)


def test_what_never_fits_is_told_apart() -> None:
    made = scheduler(pages=10)
    assert made.fits(10)
    assert not made.fits(11)
    with pytest.raises(AssertionError):
        made.add(Fake(0, pages_most=11))


@pytest.mark.parametrize(
    ("free", "wanted", "added"),
    [
        (5, 5, 0),  # enough
        (5, 6, 10),  # a slab, an eighth of what there is
        (5, 40, 35),  # more than a slab at once
        (0, 1000, 120),  # never beyond the budget
    ],
)
def test_a_pool_grows_by_slabs_and_only_when_more_is_wanted(free: int, wanted: int, added: int) -> None:
    assert pages_to_add(pages=80, most=200, free=free, wanted=wanted) == added
    assert pages_to_add(pages=200, most=200, free=free, wanted=wanted) == 0
    assert pages_to_add(pages=3, most=200, free=0, wanted=1) == 1


@pytest.mark.parametrize("copies", [0, 3])
@pytest.mark.parametrize("waiting", [0, 1, 2, 5])
def test_with_the_pages_that_are_wanted_all_who_may_run_begin(waiting: int, copies: int) -> None:
    """With one page fewer than that some of them would have to wait."""
    made = running(decoding(0, draft_wanted=3), decoding(1), pages=200)
    made.limits = replace(made.limits, max_sequences=4)
    for arrival in range(waiting):
        made.add(Fake(2 + arrival, length=9, draft_wanted=4))
    wanted = made.pages_wanted(prompt_pages, lambda sequence: copies if sequence.arrival == 0 else 0)
    spare = copies * 2  # pages that each copy of the first would take beside
    admission = made.admit(wanted - spare, prompt_pages)
    assert (len(admission.admit), admission.preempt) == (min(waiting, 2), [])
    if waiting:
        again = running(decoding(0, draft_wanted=3), decoding(1), pages=200)
        again.limits = made.limits
        for arrival in range(waiting):
            again.add(Fake(2 + arrival, length=9, draft_wanted=4))
        assert len(again.admit(wanted - spare - 1, prompt_pages).admit) < min(waiting, 2)


# Who begins.


def test_priority_then_arrival() -> None:
    made = scheduler(sequences=3)
    sequences = [Fake(0), Fake(1), Fake(2, priority=1), Fake(3, priority=-1)]
    for sequence in reversed(sequences):
        made.add(sequence)
    assert made.admit(100, prompt_pages).admit == [sequences[2], sequences[0], sequences[1]]
    assert (made.running, made.waiting) == ([sequences[2], sequences[0], sequences[1]], [sequences[3]])


def test_sequences_leave_from_either_place() -> None:
    made = scheduler(sequences=1)
    first, second = Fake(0), Fake(1)
    made.add(first)
    made.add(second)
    made.admit(100, prompt_pages)
    made.remove(second)
    made.remove(first)
    assert made.running == made.waiting == []


@pytest.mark.parametrize(("lookahead", "need"), [(0, 2 + 2), (1, 2 + 3)])
def test_a_sequence_begins_when_its_prompt_and_its_next_cycles_fit(lookahead: int, need: int) -> None:
    """Of 8 tokens that are 2 pages; two cycles of 4 drafts reach token 18, and three token 23."""
    for pages_free, admitted in ((need - 1, 0), (need, 1)):
        made = running(decoding(0, length=8), lookahead=lookahead)
        made.add(Fake(1, length=8, draft_wanted=4))
        assert len(made.admit(pages_free, prompt_pages).admit) == admitted


def test_a_sequence_never_asks_for_more_than_it_may_hold() -> None:
    made = running(decoding(0, length=9))
    made.add(Fake(1, length=8, draft_wanted=4, pages_most=2))
    assert len(made.admit(2, prompt_pages).admit) == 1


def test_pages_that_others_hold_cost_nothing() -> None:
    made = running(decoding(0, length=9))
    made.add(Fake(1, length=8))
    assert len(made.admit(0, lambda _: 0).admit) == 1


def test_what_is_spoken_for_is_not_given_again() -> None:
    """The running one has 7 pages of its prompt to come."""
    for pages_free, admitted in ((8, 0), (9, 1)):
        reading = Fake(0, length=36, target_length=8, pages_held=2)
        made = running(reading)
        made.add(Fake(1, length=8))
        assert len(made.admit(pages_free, prompt_pages).admit) == admitted


def test_a_big_sequence_is_not_overtaken() -> None:
    made = running(decoding(0))
    big, small = Fake(1, length=36), Fake(2, length=1)
    made.add(big)
    made.add(small)
    assert made.admit(5, prompt_pages).admit == []
    assert made.admit(9, prompt_pages).admit == [big, small]


def test_alone_the_first_always_begins() -> None:
    made = scheduler(pages=10)
    made.add(Fake(0, length=40, draft_wanted=7))
    made.add(Fake(1, length=4))
    assert len(made.admit(10, prompt_pages).admit) == 1
    lonely = scheduler(pages=10)
    lonely.add(Fake(0))
    assert len(lonely.admit(0, prompt_pages).admit) == 1  # whatever is counted: it was seen to fit alone


def test_a_copy_begins_at_once_where_it_passes_nobody() -> None:
    made = running(decoding(0))
    assert made.start(Fake(5), 0)
    made.add(Fake(3))
    assert not made.start(Fake(6), 100)
    assert made.start(Fake(7, priority=1), 100)
    assert [sequence.arrival for sequence in made.running] == [0, 5, 7]


def test_a_copy_waits_where_there_is_no_room() -> None:
    made = running(decoding(0, length=11))  # it reaches the next page within two cycles, and so does the copy
    assert not made.start(Fake(5, length=11), 1)
    assert made.start(Fake(5, length=11), 2)
    full = scheduler(sequences=1)
    full.running.append(decoding(0))
    assert not full.start(Fake(5), 100)


# Who gives up its pages.


def test_the_youngest_goes_while_pages_are_short() -> None:
    """Each reaches its next page in this cycle; nothing is free."""
    sequences = [decoding(0, 11), decoding(1, 11, priority=-1), decoding(2, 11), decoding(3, 11, priority=1)]
    made = running(*sequences)
    made.add(Fake(9, priority=5))
    admission = made.admit(0, prompt_pages, held)
    assert admission.preempt == [sequences[1], sequences[2]]
    assert admission.admit == []
    assert made.running == [sequences[0], sequences[3]]
    assert [sequence.arrival for sequence in made.waiting] == [9, 2, 1]


def test_nobody_goes_while_pages_suffice() -> None:
    sequences = [decoding(arrival, 11) for arrival in range(3)]
    assert running(*sequences).admit(3, prompt_pages, held).preempt == []
    assert running(*sequences).admit(2, prompt_pages, held).preempt == [sequences[2]]
    assert running(*(decoding(arrival, 9) for arrival in range(3))).admit(0, prompt_pages, held).preempt == []


def test_who_is_about_to_end_wants_no_more_than_it_may_hold() -> None:
    sequences = [decoding(arrival, 11, draft_wanted=7) for arrival in range(2)]
    for sequence in sequences:
        sequence.pages_most = sequence.pages_held
    assert running(*sequences).admit(0, prompt_pages, held).preempt == []


def test_no_cycle_is_enqueued_that_might_need_pages_there_are_not() -> None:
    sequences = [decoding(0, 10), decoding(1, 8)]
    assert running(*sequences).covers(0)
    ahead = running(*sequences, lookahead=1)
    assert not ahead.covers(0)
    assert ahead.covers(1)
    assert scheduler().covers(0)


def test_cycles_in_flight_need_pages_too() -> None:
    sequences = [decoding(0, 10), decoding(1, 10)]
    assert running(*sequences).admit(0, prompt_pages, held).preempt == []
    assert running(*sequences, lookahead=1).admit(0, prompt_pages, held).preempt == [sequences[1]]


def test_pages_that_are_shared_do_not_come_back() -> None:
    """Three forks of one prompt need a page each, and have two together: without counting, one would fail."""
    sequences = [decoding(arrival, 11) for arrival in range(4)]
    assert running(*sequences).admit(1, prompt_pages, lambda _: 0).preempt == [sequences[3], sequences[2], sequences[1]]
    assert running(*sequences).admit(2, prompt_pages, lambda _: 0).preempt == [sequences[3], sequences[2]]


def test_the_last_one_stays() -> None:
    sequence = decoding(0, 11)
    made = running(sequence)
    assert made.admit(0, prompt_pages, held).preempt == []
    assert made.running == [sequence]


def test_a_prompt_that_is_still_read_counts_whole() -> None:
    reading = Fake(1, length=36, target_length=8, pages_held=2)
    assert running(decoding(0, 9), reading).admit(6, prompt_pages, held).preempt == [reading]
    assert running(decoding(0, 9), reading).admit(7, prompt_pages, held).preempt == []


# What is read, and who drafts.


def test_prompts_share_a_budget_in_order() -> None:
    sequences = [Fake(0, length=30), Fake(1, length=5, priority=1), Fake(2, length=9)]
    plan = running(*sequences).plan()
    assert plan.prefill == [(sequences[1], 5), (sequences[0], 11)]
    assert plan.decode == [(sequences[1], 0)]  # read to its end, it gives its first token in this very cycle


def test_reading_begins_behind_what_was_found() -> None:
    sequence = Fake(0, length=10, target_length=8)
    assert running(sequence).plan().prefill == [(sequence, 2)]


def test_a_prompt_of_one_token_has_nothing_to_read() -> None:
    sequence = Fake(0, length=0)
    plan = running(sequence).plan()
    assert (plan.prefill, plan.decode) == ([], [(sequence, 0)])


def test_the_draft_reads_what_the_target_leaves() -> None:
    reading = Fake(0, length=12)
    behind = [decoding(1, 20, draft_wanted=3, behind=3), decoding(2, 20, draft_wanted=3, behind=19)]
    plan = running(reading, *behind, prefill=16).plan()
    assert plan.prefill == [(reading, 12)]
    assert plan.draft_prefill == [(behind[0], 3), (behind[1], 1)]
    assert plan.decode == [(reading, 0), (behind[0], 3), (behind[1], 0)]


def test_the_draft_is_not_read_for_nothing() -> None:
    """Not before the first token, not without a draft, and not where no row is left for one."""
    first = Fake(0, length=8, target_length=8, draft_wanted=3)
    without = decoding(1, behind=5)
    assert running(first, without).plan().draft_prefill == []
    crowded = [decoding(arrival, draft_wanted=3, behind=5) for arrival in range(8)]
    plan = running(*crowded, rows=8).plan()
    assert plan.draft_prefill == []
    assert plan.decode == [(sequence, 0) for sequence in crowded]


@pytest.mark.parametrize(
    ("rows", "counts"),
    [(32, [7, 2, 4, 0]), (31, [6, 2, 4, 0]), (16, [3, 2, 3, 0]), (12, [2, 2, 2, 0]), (11, [0] * 4), (4, [0] * 4)],
)
def test_draft_lengths_are_capped_together(rows: int, counts: list[int]) -> None:
    """A pass has as many rows for each sequence as for the one that drafts most."""
    made = scheduler(sequences=4, rows=rows)
    made.running.extend(decoding(arrival, draft_wanted=wanted) for arrival, wanted in enumerate([7, 2, 4, 0]))
    assert [count for _, count in made.plan().decode] == counts


def test_some_pages_stay_free_for_those_who_run() -> None:
    """Who is let in with the last page is thrown out again soon; alone it may have them all."""
    made = scheduler(pages=1000)
    made.running.append(decoding(0, 20))
    made.add(Fake(1, length=8))
    assert made.admit(11, lambda sequence: 2).admit == []
    assert len(made.admit(15, lambda sequence: 2).admit) == 1
    alone = scheduler(pages=1000)
    alone.add(Fake(1, length=8))
    assert len(alone.admit(3, lambda sequence: 2).admit) == 1
