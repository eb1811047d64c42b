"""Which pages are free, and how many sequences hold each: bookkeeping alone, no arrays."""

from __future__ import annotations

from collections.abc import Iterable

from helix_mlx.errors import MemoryBudgetError

ZERO_PAGE = 0
"""Never given out and always zero: block tables are padded with it, so no sequence reads another's memory."""


class PageAllocator:
    """Hands out pages 1 to `n_pages` and keeps runs together where it can.

    A page is given to one holder by `allocate`, to more by `retain`, and is free again after as many
    `release`s. Free pages are kept as runs, so that extending a run costs the same in any pool.

    Args:
        n_pages: how many pages can be held at once.
    """

    def __init__(self, n_pages: int) -> None:
        assert n_pages >= 1
        self.pages_total = n_pages
        self._free: dict[int, int] = {1: n_pages}  # first page of a free run -> pages in it
        self._free_ending: dict[int, int] = {n_pages: 1}  # last page of a free run -> its first
        self._holders: dict[int, int] = {}

    @property
    def pages_used(self) -> int:
        """Pages that somebody holds."""
        return len(self._holders)

    @property
    def pages_free(self) -> int:
        """Pages that nobody holds."""
        return self.pages_total - len(self._holders)

    def holders(self, page: int) -> int:
        """How many hold `page`; 0 where it is free."""
        return self._holders.get(page, 0)

    def allocate(self, after: int | None = None) -> int:
        """One page: the next one after the held page `after` where that is free, else the start of a new run.

        Raises:
            MemoryBudgetError: no page is free.
        """
        if not self._free:
            raise MemoryBudgetError(
                f"all {self.pages_total} pages of KV memory are in use; raise --kv-memory, or lower --max-context"
            )
        page = after + 1 if after is not None and after + 1 in self._free else self._start_of_new_run()
        self._take(page)
        self._holders[page] = 1
        return page

    def retain(self, page: int) -> None:
        """One more holder of a held page."""
        assert page in self._holders, f"page {page} is free"
        self._holders[page] += 1

    def release(self, pages: Iterable[int]) -> None:
        """One holder fewer of each page; those without holders are free."""
        for page in pages:
            left = self._holders[page] - 1
            if left:
                self._holders[page] = left
            else:
                del self._holders[page]
                self._give(page)

    def _start_of_new_run(self) -> int:
        """The first page of memory if it is free, else the middle of the widest gap: both neighbours can grow."""
        first, count = max(self._free.items(), key=lambda run: (run[1], -run[0]))
        return first if first == 1 else first + count // 2

    def _take(self, page: int) -> None:
        # What is left of the run goes in before the run goes out: an interrupt in between loses no free page.
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
