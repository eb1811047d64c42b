"""Which pages are free, and how many sequences hold each: pure bookkeeping, no arrays."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence

from helix_mlx.errors import MemoryBudgetError

ZERO_PAGE = 0
"""Never allocated and always zero: block tables are padded with it, so no sequence reads another's memory."""


class PageAllocator:
    """Hands out pages 1 to `n_pages` and keeps runs together where it can.

    A page is given to one holder by `allocate`, to more by `retain`, and is free again after as many
    `release`s. Free pages are kept as runs, so that extending a run costs the same in any pool. A page
    marked by `pin_cached` is cached instead of free when its last holder lets go: what is in it stays, `retain` brings
    it back, and only where no page is free, the one that was released first is taken, and `on_evict` is told.
    `drafted` are the pages whose layers of the draft have been written, too.

    Args:
        n_pages: how many pages can be held at once, until `grow` makes them more.
    """

    def __init__(self, n_pages: int) -> None:
        assert n_pages >= 1
        self.pages_total = n_pages
        self._free: dict[int, int] = {1: n_pages}  # first page of a free run -> pages in it
        self._free_ending: dict[int, int] = {n_pages: 1}  # last page of a free run -> its first
        self._ref_counts: dict[int, int] = {}
        self._kept: set[int] = set()
        self._cached: OrderedDict[int, None] = OrderedDict()
        self.on_evict: Callable[[int], None] | None = None
        self.drafted: set[int] = set()

    @property
    def pages_used(self) -> int:
        """Pages held by at least one sequence."""
        return len(self._ref_counts)

    @property
    def pages_free(self) -> int:
        """Pages that can be allocated: unheld, though some may be cached."""
        return self.pages_total - len(self._ref_counts)

    @property
    def pages_cached(self) -> int:
        """Unheld pages whose contents may be reused."""
        return len(self._cached)

    def grow(self, pages: int) -> None:
        """Add pages after the last one; existing pages keep their numbers."""
        assert pages >= 1
        first, last = self.pages_total + 1, self.pages_total + pages
        self.pages_total = last
        if first - 1 in self._free_ending:
            first = self._free_ending.pop(first - 1)
        self._free[first], self._free_ending[last] = last - first + 1, first

    def ref_count(self, page: int) -> int:
        """How many sequences hold `page`; 0 if it is free."""
        return self._ref_counts.get(page, 0)

    def allocate(self, after: int | None = None) -> int:
        """Allocate a page: the one after the held page `after` if it is free, else the start of a new run.

        Raises:
            MemoryBudgetError: no page is free.
        """
        if not self._free:
            self._evict()
        page = after + 1 if after is not None and after + 1 in self._free else self._start_of_new_run()
        self._take(page)
        self._ref_counts[page] = 1
        self.drafted.discard(page)
        return page

    def retain(self, page: int) -> None:
        """Add a holder to a held or cached page."""
        assert page in self._ref_counts or page in self._cached, f"page {page} is free"
        self._ref_counts[page] = self.ref_count(page) + 1
        self._cached.pop(page, None)

    def pin_cached(self, page: int) -> None:
        """Mark a held page to be cached when its last holder releases it."""
        assert page in self._ref_counts, f"page {page} is held by nobody"
        self._kept.add(page)

    def uncache(self, page: int) -> None:
        """Do not cache a page any more; current holders keep it."""
        self._kept.discard(page)
        if page in self._cached:
            self._give(page)
            del self._cached[page]

    def release(self, pages: Sequence[int]) -> None:
        """Remove a holder from each page; pages without holders become cached or free.

        The last page comes first: of a sequence's cached pages the deepest are taken first, since a page is of no
        use without those before it.
        """
        for page in reversed(pages):
            left = self._ref_counts[page] - 1
            if left:
                self._ref_counts[page] = left
            else:
                del self._ref_counts[page]
                if page in self._kept:
                    self._cached[page] = None
                else:
                    self._give(page)

    def _evict(self) -> None:
        """Evict the least recently released cached page.

        Raises:
            MemoryBudgetError: there is none.
        """
        if not self._cached:
            raise MemoryBudgetError(
                f"all {self.pages_total} pages of KV memory are in use; raise --kv-memory, or lower --max-context"
            )
        page = next(iter(self._cached))
        if self.on_evict is not None:
            self.on_evict(page)
        self.uncache(page)

    def _start_of_new_run(self) -> int:
        """The first page if it is free, else the middle of the widest gap, so that both neighbours can grow."""
        first, count = max(self._free.items(), key=lambda run: (run[1], -run[0]))
        return first if first == 1 else first + count // 2

    def _take(self, page: int) -> None:
        # Add the rest of the run before removing the run, so that an interrupt in between loses no free page.
        first = page if page in self._free else self._run_around(page)
        last = first + self._free[first] - 1
        if page < last:
            self._free[page + 1], self._free_ending[last] = last - page, page + 1
        else:
            del self._free_ending[last]
        if first < page:
            self._free[first], self._free_ending[page - 1] = page - first, first
        else:
            del self._free[first]

    def _run_around(self, page: int) -> int:
        return next(first for first, count in self._free.items() if first <= page < first + count)

    def _give(self, page: int) -> None:
        first, last = page, page
        if page - 1 in self._free_ending:
            first = self._free_ending.pop(page - 1)
            del self._free[first]
        if page + 1 in self._free:
            last = page + self._free.pop(page + 1)
            del self._free_ending[last]
        self._free[first], self._free_ending[last] = last - first + 1, first
