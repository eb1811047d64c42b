"""The list of pages of one sequence."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from helix_mlx.paging.page_allocator import PageAllocator


class BlockTable:
    """The pages of one sequence, in the order of its positions. Target and draft share it.

    `digests` are the prefix cache's keys of its first pages, as far as they are in the cache.

    Args:
        allocator: where the pages come from and go back to.
    """

    def __init__(self, allocator: PageAllocator) -> None:
        self._allocator = allocator
        self.pages: list[int] = []
        self.digests: list[bytes] = []

    def grow(self, count: int) -> None:
        """Grow to at least `count` pages.

        Raises:
            MemoryBudgetError: not enough pages are free; those already taken stay held.
        """
        while len(self.pages) < count:
            self.pages.append(self._allocator.allocate(self.pages[-1] if self.pages else None))

    def adopt(self, pages: Sequence[int], digests: Sequence[bytes] = ()) -> None:
        """Start with pages that other sequences hold or the prefix cache keeps."""
        assert not self.pages
        for page in pages:
            self._allocator.retain(page)
            self.pages.append(page)
        self.digests = list(digests)

    def fork(self) -> BlockTable:
        """A second table of the same pages, which both now share."""
        forked = BlockTable(self._allocator)
        forked.adopt(self.pages, self.digests)
        return forked

    def truncate(self, count: int) -> None:
        """Release every page after the first `count`."""
        assert count >= 0
        gone, self.pages = self.pages[count:], self.pages[:count]
        del self.digests[count:]
        self._allocator.release(gone)

    def is_run(self, count: int) -> bool:
        """Whether the first `count` pages are contiguous, so that they can be read as one slice."""
        return all(b == a + 1 for a, b in pairwise(self.pages[:count]))
