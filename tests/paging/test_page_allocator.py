"""The allocator against the plainest model of one: a list of holder counts."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from helix_mlx.errors import MemoryBudgetError
from helix_mlx.paging.page_allocator import ZERO_PAGE, PageAllocator


class AllocatorMachine(RuleBasedStateMachine):
    """Allocates, retains and releases at random, in the allocator and in the model."""

    def __init__(self) -> None:
        super().__init__()
        self.total = 24
        self.pages = PageAllocator(self.total)
        self.counts = [0] * (self.total + 1)

    def held(self) -> list[int]:
        return [page for page, count in enumerate(self.counts) if count]

    @rule(data=st.data())
    def allocate(self, data: st.DataObject) -> None:
        after = data.draw(st.none() | st.sampled_from(self.held())) if self.held() else None
        free = [page for page in range(1, self.total + 1) if not self.counts[page]]
        if not free:
            with pytest.raises(MemoryBudgetError, match="kv-memory"):
                self.pages.allocate(after)
            return
        page = self.pages.allocate(after)
        assert page in free
        if after is not None and after + 1 in free:
            assert page == after + 1
        self.counts[page] = 1

    @precondition(lambda self: any(self.counts))
    @rule(data=st.data())
    def retain(self, data: st.DataObject) -> None:
        page = data.draw(st.sampled_from(self.held()))
        self.pages.retain(page)
        self.counts[page] += 1

    @precondition(lambda self: any(self.counts))
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        pages = data.draw(st.lists(st.sampled_from(self.held()), unique=True, max_size=5))
        self.pages.release(pages)
        for page in pages:
            self.counts[page] -= 1

    @precondition(lambda self: self.total < 40)
    @rule(more=st.integers(1, 8))
    def grow(self, more: int) -> None:
        self.pages.grow(more)
        self.total += more
        self.counts += [0] * more

    @invariant()
    def same_as_the_model(self) -> None:
        assert [self.pages.ref_count(page) for page in range(self.total + 1)] == self.counts
        assert self.pages.pages_used == len(self.held())
        assert self.pages.pages_free == self.total - len(self.held())
        assert self.pages.ref_count(ZERO_PAGE) == 0


TestAllocator = AllocatorMachine.TestCase
TestAllocator.settings = settings(max_examples=60, stateful_step_count=40, deadline=None, derandomize=True)


def test_one_sequence_is_one_run() -> None:
    pages = PageAllocator(100)
    got = [pages.allocate()]
    for _ in range(99):
        got.append(pages.allocate(got[-1]))
    assert got == list(range(1, 101))


def test_one_sequence_stays_one_run_when_there_are_more_pages() -> None:
    pages = PageAllocator(3)
    got = [pages.allocate()]
    for more in (0, 0, 2, 0, 1):
        if more:
            pages.grow(more)
        got.append(pages.allocate(got[-1]))
    assert got == [1, 2, 3, 4, 5, 6]


def test_two_sequences_can_both_grow_as_runs() -> None:
    pages = PageAllocator(100)
    first, second = [pages.allocate()], [pages.allocate()]
    for _ in range(40):
        first.append(pages.allocate(first[-1]))
        second.append(pages.allocate(second[-1]))
    assert first == list(range(first[0], first[0] + 41))
    assert second == list(range(second[0], second[0] + 41))
