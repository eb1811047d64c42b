"""Pages that stay known after their sequences: found by content, taken for something else deepest first."""

from __future__ import annotations

from hashlib import blake2b

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from helix_mlx.errors import MemoryBudgetError
from helix_mlx.paging.block_table import BlockTable
from helix_mlx.paging.page_allocator import PageAllocator
from helix_mlx.paging.prefix_cache import PrefixCache

PAGE = 2


def store(n_pages: int = 8, identity: bytes = b"pair", enabled: bool = True) -> tuple[PageAllocator, PrefixCache]:
    allocator = PageAllocator(n_pages)
    return allocator, PrefixCache(allocator, PAGE, identity, enabled)


def written(allocator: PageAllocator, cache: PrefixCache, tokens: list[int]) -> BlockTable:
    """A table whose whole pages hold these tokens, and are known."""
    table = BlockTable(allocator)
    table.grow(len(tokens) // PAGE)
    cache.add(table, tokens, len(table.pages))
    return table


def test_the_longest_chain_of_whole_pages_is_found() -> None:
    allocator, cache = store()
    table = written(allocator, cache, [1, 2, 3, 4, 5, 6])
    assert cache.match([1, 2, 3, 4, 5, 6, 7]).pages == table.pages
    assert cache.match([1, 2, 3, 4, 5]).pages == table.pages[:2]
    assert cache.match([1, 2, 9, 4, 5, 6]).pages == table.pages[:1]
    assert cache.match([1]).pages == cache.match([]).pages == []
    assert cache.match([3, 4, 5, 6]).pages == []  # the same tokens behind others are other keys and values
    assert len(cache.match([1, 2, 3, 4]).digests) == 2


def test_another_identity_has_other_digests() -> None:
    digests = [written(*store(identity=name), [1, 2]).digests for name in (b"one", b"other")]
    assert digests[0] != digests[1]


def test_digests_are_the_same_in_every_process() -> None:
    """They depend on the identity and the tokens alone, as 4-byte numbers, lowest byte first."""

    def digest(data: bytes) -> bytes:
        return blake2b(data, digest_size=32).digest()

    first = digest(digest(b"pair") + bytes([1, 0, 0, 0, 112, 17, 1, 0]))
    second = digest(first + bytes([2, 0, 0, 0, 3, 0, 0, 0]))
    assert written(*store(identity=b"pair"), [1, 70000, 2, 3]).digests == [first, second]


def test_pages_are_added_as_they_are_committed() -> None:
    allocator, cache = store()
    tokens = [1, 2, 3, 4, 5, 6]
    table = BlockTable(allocator)
    for pages in (1, 1, 3):
        table.grow(pages)
        cache.add(table, tokens, pages)
        assert cache.match(tokens).pages == table.pages
        assert cache.match(tokens).digests == table.digests


def test_the_first_page_with_some_tokens_stays_the_known_one() -> None:
    allocator, cache = store()
    first, second = written(allocator, cache, [1, 2, 3, 4]), written(allocator, cache, [1, 2, 3, 4, 5, 6])
    assert first.digests == second.digests[:2]
    assert cache.match([1, 2, 3, 4, 5, 6]).pages == [*first.pages, second.pages[2]]
    second.truncate(0)
    assert allocator.pages_cached == 1  # the two others are known by the first one's pages: free at once
    first.truncate(0)
    assert (allocator.pages_cached, allocator.pages_free) == (3, 8)


def test_behind_a_page_of_another_sequence_a_chain_may_break() -> None:
    """Both read the same at once: of the second only what is behind that is known, and the first may go before it."""
    allocator, cache = store(n_pages=4)
    first, second = written(allocator, cache, [1, 2]), written(allocator, cache, [1, 2, 3, 4])
    first.truncate(0)
    second.truncate(0)
    for _ in range(3):
        allocator.allocate()
    assert (len(cache), cache.match([1, 2, 3, 4]).pages) == (1, [])
    allocator.allocate()
    assert len(cache) == 0


def test_disabled_it_knows_nothing() -> None:
    allocator, cache = store(enabled=False)
    table = written(allocator, cache, [1, 2, 3, 4])
    assert (len(cache), table.digests, cache.match([1, 2, 3, 4]).pages) == (0, [], [])
    table.truncate(0)
    assert allocator.pages_cached == 0


def test_a_cached_page_is_revived() -> None:
    allocator, cache = store()
    table = written(allocator, cache, [1, 2, 3, 4])
    pages = list(table.pages)
    table.truncate(0)
    assert (allocator.pages_used, allocator.pages_cached, allocator.pages_free) == (0, 2, 8)
    found = cache.match([1, 2, 3, 4])
    table.adopt(found.pages, found.digests)
    assert (table.pages, allocator.pages_used, allocator.pages_cached) == (pages, 2, 0)


def test_only_held_or_cached_pages_are_retained() -> None:
    allocator, _ = store()
    page = allocator.allocate()
    allocator.release([page])
    with pytest.raises(AssertionError, match="free"):
        allocator.retain(page)
    with pytest.raises(AssertionError, match="nobody"):
        allocator.pin_cached(page)


def test_free_pages_are_taken_before_cached_ones() -> None:
    allocator, cache = store(n_pages=4)
    written(allocator, cache, [1, 2, 3, 4]).truncate(0)
    other = BlockTable(allocator)
    other.grow(2)
    assert len(cache.match([1, 2, 3, 4]).pages) == 2
    other.grow(3)
    assert len(cache.match([1, 2, 3, 4]).pages) == 1
    other.grow(4)
    assert len(cache) == 0
    with pytest.raises(MemoryBudgetError):
        other.grow(5)


def test_the_least_recently_released_goes_first_and_of_it_the_deepest_page() -> None:
    allocator, cache = store(n_pages=4)
    texts = [[1, 2, 3, 4], [5, 6, 7, 8]]
    tables = [written(allocator, cache, text) for text in texts]
    for table in tables:
        table.truncate(0)
    found = cache.match(texts[0])
    tables[0].adopt(found.pages, found.digests)
    tables[0].truncate(0)  # used again, so the other one is older now
    left = []
    for _ in range(4):
        allocator.allocate()
        left.append([len(cache.match(text).pages) for text in texts])
    assert left == [[2, 1], [2, 0], [1, 0], [0, 0]]


def test_what_the_draft_has_read_is_forgotten_with_the_page() -> None:
    allocator, cache = store(n_pages=1)
    table = written(allocator, cache, [1, 2])
    allocator.drafted.add(table.pages[0])
    table.truncate(0)
    assert allocator.drafted == set(cache.match([1, 2]).pages)
    allocator.allocate()
    assert allocator.drafted == set()


def test_a_fork_shares_and_goes_its_own_way() -> None:
    allocator, cache = store()
    table = written(allocator, cache, [1, 2, 3, 4])
    fork = table.fork()
    fork.grow(3)
    cache.add(fork, [1, 2, 3, 4, 5, 6], 3)
    assert fork.pages[:2] == table.pages
    assert (len(table.digests), len(fork.digests), allocator.pages_used) == (2, 3, 3)
    with pytest.raises(AssertionError):
        fork.adopt([1])
    table.truncate(0)
    fork.truncate(1)
    assert (fork.digests, allocator.pages_used, allocator.pages_cached) == (cache.match([1, 2]).digests, 1, 2)


def test_cleared_it_gives_back_what_nobody_holds() -> None:
    allocator, cache = store()
    held = written(allocator, cache, [1, 2, 3, 4])
    written(allocator, cache, [5, 6]).truncate(0)
    cache.clear()
    assert (len(cache), allocator.pages_cached, allocator.pages_used) == (0, 0, 2)
    held.truncate(0)
    assert (allocator.pages_cached, allocator.pages_free) == (0, 8)


Chain = tuple[tuple[int, ...], ...]
"""The tokens of a page's beginning, page by page, the page's own last."""

TOKENS = st.lists(st.integers(0, 1), max_size=9)


class Modelled:
    """A table, and what its sequence has read."""

    def __init__(self, table: BlockTable, tokens: list[int]) -> None:
        self.table = table
        self.tokens = tokens

    def chain(self, index: int) -> Chain:
        return tuple(tuple(self.tokens[i * PAGE : (i + 1) * PAGE]) for i in range(index + 1))


class StoreMachine(RuleBasedStateMachine):
    """Sequences come, read, fork, are cut and go, over a pool that is too small for what they leave behind.

    The model is three dictionaries: which chain was last written to each page, which page is known for each chain,
    and which pages the draft has read. Two tokens only, so that chains meet.
    """

    def __init__(self) -> None:
        super().__init__()
        self.total = 10
        self.allocator, self.cache = store(self.total)
        self.on_evict, self.allocator.on_evict = self.allocator.on_evict, self.forgotten
        self.sequences: list[Modelled] = []
        self.content: dict[int, Chain] = {}
        self.known: dict[Chain, int] = {}
        self.behind: dict[int, int] = {}  # known page -> the page before it in the table that it was known from
        self.drafted: set[int] = set()

    def forgotten(self, page: int) -> None:
        """The allocator takes a cached page: the oldest, and none with a known page behind it."""
        assert self.on_evict is not None
        assert self.allocator.ref_count(page) == 0
        assert self.known.pop(self.content[page]) == page
        assert page not in self.behind.values(), "a parent goes before its child"
        self.behind.pop(page, None)
        self.on_evict(page)

    def pick(self, data: st.DataObject) -> Modelled:
        return data.draw(st.sampled_from(self.sequences))

    @precondition(lambda self: len(self.sequences) < 4)
    @rule(tokens=TOKENS)
    def begin(self, tokens: list[int]) -> None:
        """As a sequence is admitted: with what is known of its tokens, which is the longest chain there is."""
        sequence = Modelled(BlockTable(self.allocator), tokens)
        found = self.cache.match(tokens)
        chains = [sequence.chain(index) for index in range(len(tokens) // PAGE)]
        expected = []
        for chain in chains:
            if chain not in self.known:
                break
            expected.append(self.known[chain])
        assert found.pages == expected
        assert [self.content[page] for page in found.pages] == chains[: len(found.pages)]
        assert len(found.digests) == len(found.pages)
        sequence.table.adopt(found.pages, found.digests)
        self.sequences.append(sequence)

    @precondition(lambda self: self.sequences)
    @rule(data=st.data(), more=TOKENS, draft=st.booleans())
    def read(self, data: st.DataObject, more: list[int], draft: bool) -> None:
        """Write the pages that are full, know them, and let the draft read them, too."""
        sequence = self.pick(data)
        sequence.tokens = sequence.tokens + more
        table = sequence.table
        while len(table.pages) < len(sequence.tokens) // PAGE:
            index = len(table.pages)
            full = self.allocator.pages_free == 0
            try:
                table.grow(index + 1)
            except MemoryBudgetError:
                assert full
                break
            assert not full
            page = table.pages[index]
            assert page not in self.known.values()
            self.content[page] = sequence.chain(index)
            self.drafted.discard(page)
        for index in range(len(table.digests), len(table.pages)):
            page, chain = table.pages[index], sequence.chain(index)
            if chain not in self.known:
                self.known[chain] = page
                # A page that another is known for is not before anything: it is free as soon as nobody holds it.
                if index and self.known[sequence.chain(index - 1)] == table.pages[index - 1]:
                    self.behind[page] = table.pages[index - 1]
        self.cache.add(table, sequence.tokens, len(table.pages))
        if draft:
            self.allocator.drafted.update(table.pages)
            self.drafted.update(table.pages)

    @precondition(lambda self: 0 < len(self.sequences) < 4)
    @rule(data=st.data())
    def fork(self, data: st.DataObject) -> None:
        sequence = self.pick(data)
        table = sequence.table.fork()
        assert (table.pages, table.digests) == (sequence.table.pages, sequence.table.digests)
        self.sequences.append(Modelled(table, list(sequence.tokens)))

    @precondition(lambda self: self.sequences)
    @rule(data=st.data(), count=st.integers(0, 4))
    def truncate(self, data: st.DataObject, count: int) -> None:
        sequence = self.pick(data)
        sequence.table.truncate(count)
        sequence.tokens = sequence.tokens[: count * PAGE]

    @precondition(lambda self: self.sequences)
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        sequence = self.pick(data)
        self.sequences.remove(sequence)
        sequence.table.truncate(0)

    @rule()
    def end_all_and_begin_again(self) -> None:
        """Everything can be had, whatever is cached."""
        while self.sequences:
            self.sequences.pop().table.truncate(0)
        assert self.allocator.pages_used == 0
        assert self.allocator.pages_free == self.total

    @rule()
    def clear(self) -> None:
        self.cache.clear()
        for sequence in self.sequences:
            sequence.table.truncate(0)
        self.sequences.clear()
        self.known.clear()
        self.behind.clear()
        assert self.allocator.pages_cached == 0

    @invariant()
    def holders_are_the_tables(self) -> None:
        held = [page for sequence in self.sequences for page in sequence.table.pages]
        assert all(self.allocator.ref_count(page) == held.count(page) for page in range(self.total + 1))
        assert self.allocator.pages_used == len(set(held))
        assert self.allocator.pages_free == self.total - len(set(held))

    @invariant()
    def no_page_is_lost(self) -> None:
        """A page that nobody holds is known and cached, or free."""
        held = {page for sequence in self.sequences for page in sequence.table.pages}
        assert self.allocator.pages_cached == len(set(self.known.values()) - held)
        assert len(self.cache) == len(self.known)

    @invariant()
    def tables_hold_what_their_sequences_have_read(self) -> None:
        for sequence in self.sequences:
            for index, page in enumerate(sequence.table.pages):
                assert self.content[page] == sequence.chain(index)
            assert len(sequence.table.digests) <= len(sequence.table.pages)

    @invariant()
    def drafted_goes_with_the_content(self) -> None:
        assert self.allocator.drafted == self.drafted


TestStore = StoreMachine.TestCase
TestStore.settings = settings(max_examples=100, stateful_step_count=50, deadline=None, derandomize=True)
