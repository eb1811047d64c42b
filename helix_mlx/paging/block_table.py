"""The list of pages of one sequence."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from helix_mlx.paging.page_allocator import PageAllocator


class BlockTable:
    """The pages of one sequence, in the order of its positions. Target and draft share it.

    `digests` are the prefix cache's keys of its first pages, as far as that knows them.

    Args:
        allocator: where the pages come from and go back to.
    """

    def __init__(self, allocator: PageAllocator) -> None:
        self._allocator = allocator
        self.pages: list[int] = []
        self.digests: list[bytes] = []

    def grow(self, count: int) -> None:
        """Hold at least `count` pages.

        Raises:
            MemoryBudgetError: not enough pages are free; those already taken stay held.
        """
        while len(self.pages) < count:
            self.pages.append(self._allocator.allocate(self.pages[-1] if self.pages else None))

    def adopt(self, pages: Sequence[int], digests: Sequence[bytes] = ()) -> None:
        """Begin with pages that are held by others, or kept by the prefix cache."""
        assert not self.pages
        for page in pages:
            self._allocator.retain(page)
            self.pages.append(page)
        self.digests = list(digests)

    def fork(self) -> BlockTable:
        """A table of the same pages, which both hold from here on."""
        forked = BlockTable(self._allocator)
        forked.adopt(self.pages, self.digests)
        return forked

    def truncate(self, count: int) -> None:
        """Give back every page after the first `count`."""
        assert count >= 0
        gone, self.pages = self.pages[count:], self.pages[:count]
        del self.digests[count:]
        self._allocator.release(gone)

    def is_run(self, count: int) -> bool:
        """Whether the first `count` pages lie side by side, so that they read as one slice."""
        return all(b == a + 1 for a, b in pairwise(self.pages[:count]))
