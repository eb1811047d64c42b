"""mlx-lm's cache protocol over pages and tail: what a model sees of the paged store."""

from __future__ import annotations

from collections.abc import Sequence

import mlx.core as mx

from helix_mlx.kernels.cpu_attention import InPlace, Sight
from helix_mlx.kernels.paged_attention import Stored, attention_mask, gather, gather_run
from helix_mlx.paging.block_table import BlockTable
from helix_mlx.paging.page_allocator import ZERO_PAGE
from helix_mlx.paging.page_pool import PagePool
from helix_mlx.paging.tail import Tail


class PagedKV:
    """The keys and values of a batch of sequences, for one model: their pages and their tail.

    Args:
        pool: where the pages lie.
        model: TARGET or DRAFT.
        tables: one block table a sequence, shared with the other model.
        tail: the positions in no page yet.
        committed: positions in pages, one count a sequence, each a multiple of the page size.
    """

    def __init__(
        self, pool: PagePool, model: int, tables: Sequence[BlockTable], tail: Tail, committed: Sequence[int]
    ) -> None:
        self.pool = pool
        self.model = model
        self.tables = list(tables)
        self.tail = tail
        self.committed = list(committed)
        self._address: tuple[mx.array, mx.array] | None = None

    @classmethod
    def empty(cls, pool: PagePool, model: int, table: BlockTable, slots: int) -> PagedKV:
        """One sequence with nothing in it."""
        return cls(pool, model, [table], Tail.zeros(pool.layers[model], 1, slots), [0])

    @classmethod
    def concatenate(cls, parts: Sequence[PagedKV]) -> PagedKV:
        """The sequences of several, in one batch."""
        first = parts[0]
        tables = [table for part in parts for table in part.tables]
        committed = [count for part in parts for count in part.committed]
        tail = first.tail if len(parts) == 1 else Tail.concatenate([part.tail for part in parts])
        return cls(first.pool, first.model, tables, tail, committed)

    def take(self, rows: Sequence[int]) -> PagedKV:
        """The sequences named by `rows`, in that order."""
        tables = [self.tables[b] for b in rows]
        return PagedKV(self.pool, self.model, tables, self.tail.take(rows), [self.committed[b] for b in rows])

    def due(self, lengths: Sequence[int]) -> bool:
        """Whether some sequence has a page's worth of verified positions in its tail."""
        size = self.pool.page_size
        return any(n - done >= size for n, done in zip(lengths, self.committed, strict=True))

    def commit(self, lengths: Sequence[int]) -> int:
        """Move whole pages of the first `lengths[b]` positions, all verified, from the tail to the pool.

        Nothing may be in flight, or MLX copies the pool instead of writing in place; so this waits for the
        device, which has nothing left to do: on Metal a finished command buffer may still hold its inputs.

        Returns:
            Pages written.

        Raises:
            MemoryBudgetError: no page is free.
        """
        size = self.pool.page_size
        counts = [max(0, (n - done) // size) for n, done in zip(lengths, self.committed, strict=True)]
        if not any(counts):
            return 0
        pages: list[int] = []
        for table, count, done in zip(self.tables, counts, self.committed, strict=True):
            first = done // size
            table.grow(first + count)
            pages += table.pages[first : first + count]
        mx.synchronize()
        self.pool.write(self.model, pages, *self.tail.whole_pages(counts, size))
        self.tail.shift([count * size for count in counts])
        self.committed = [done + count * size for done, count in zip(self.committed, counts, strict=True)]
        self._address = None
        mx.async_eval(self.pool.keys[self.model], self.pool.values[self.model], self.tail.keys, self.tail.values)
        return len(pages)

    def rewind(self, length: int) -> int:
        """Forget what lies behind the first `length` positions of the one sequence here.

        Pages are not cut: where `length` falls inside them, the page it falls in is forgotten whole.

        Returns:
            The positions still held, `length` or the page boundary before it.
        """
        (done,) = self.committed
        if length >= done:
            return length
        self.committed = [length - length % self.pool.page_size]
        self._address = None
        return self.committed[0]

    def caches(self, offset: mx.array, limit: int, exact: bool = False) -> list[PagedCache]:
        """One cache object a layer, for one forward pass that writes from position `offset` on.

        Args:
            offset: [B] int32, positions before the rows of this pass.
            limit: a bound, known to the host, on the positions held after the pass.
            exact: the bound is met by every sequence, so masks need not be spelt out.
        """
        view = PagedView(self, offset, limit, exact)
        return [PagedCache(view, layer) for layer in range(len(self.tail.keys))]

    def run(self) -> tuple[int, int] | None:
        """The first page and the number of pages, where there is one sequence and its pages lie side by side."""
        if len(self.tables) != 1:
            return None
        count = self.committed[0] // self.pool.page_size
        if not self.tables[0].is_run(count):
            return None
        return (self.tables[0].pages[0] if count else ZERO_PAGE), count

    def address(self) -> tuple[mx.array, mx.array]:
        """The block tables, padded with the page of zeros, [B, W] int32, and the committed counts, [B] int32."""
        if self._address is None:
            size = self.pool.page_size
            counts = [done // size for done in self.committed]
            width = max(counts) - -self.tail.slots // size
            rows = [
                table.pages[:count] + [ZERO_PAGE] * (width - count)
                for table, count in zip(self.tables, counts, strict=True)
            ]
            self._address = mx.array(rows, mx.int32), mx.array(self.committed, mx.int32)
        return self._address


class PagedView:
    """What all layers of one forward pass share: where the batch lies and where its rows go."""

    def __init__(self, kv: PagedKV, offset: mx.array, limit: int, exact: bool) -> None:
        self.kv = kv
        self.offset = offset
        self.limit = limit
        self.exact = exact
        self.run = kv.run()
        self.block_table, self.committed = kv.address()
        self.slot = offset - self.committed
        assert limit <= max(kv.committed) + kv.tail.slots, "the rows do not fit the tail"
        self.masks: dict[tuple[int, int | None], mx.array] = {}

    @property
    def keys_held(self) -> int:
        """S, the positions that `fetch` returns."""
        # The table of a run, too, has room for its tail.
        return min(self.limit, self.block_table.shape[1] * self.kv.pool.page_size)

    def fetch(self, pages: mx.array, tail: mx.array) -> mx.array:
        """[B, heads, S, dim], position p at index p."""
        if self.run is not None:
            return gather_run(pages, self.run, tail, self.limit)
        return gather(pages, self.block_table, self.committed, tail, self.limit)

    def mask(self, rows: int, window: int | None) -> mx.array:
        """[B, 1, rows, S] bool, made once a pass and window."""
        key = (rows, window)
        if key not in self.masks:
            self.masks[key] = attention_mask(self.offset, rows, self.keys_held, window)
        return self.masks[key]


class PagedCache:
    """One layer of a `PagedView`, in mlx-lm's protocol: `offset`, `update_and_fetch`, `make_mask`."""

    def __init__(self, view: PagedView, layer: int) -> None:
        self._view = view
        self._layer = layer
        self._shape = view.kv.pool.layers[view.kv.model][layer]

    @property
    def offset(self) -> mx.array:
        """[B] int32, the position of the first row of this pass."""
        return self._view.offset

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array] | tuple[InPlace, InPlace]:
        """Write this pass's rows into the tail and return all positions.

        Args:
            keys, values: [B, heads, M, dim].

        Returns:
            Keys and values, `[B, heads, S, dim]` each; or, where the model's attention reads pages and tail where
            they lie, their place, twice.
        """
        view, layer = self._view, self._layer
        kv = view.kv
        kv.tail.write(layer, view.slot, keys, values)
        pages = kv.pool.keys[kv.model][layer], kv.pool.values[kv.model][layer]
        tail = kv.tail.keys[layer], kv.tail.values[layer]
        library = kv.pool.direct[kv.model]
        if library is not None:
            stored = Stored(pages, view.block_table, view.committed, tail, view.offset)
            return InPlace(stored, library), InPlace(stored, library)
        return view.fetch(pages[0], tail[0]), view.fetch(pages[1], tail[1])

    def make_mask(
        self,
        N: int,  # noqa: N803
        window_size: int | None = None,
        return_array: bool = False,
    ) -> mx.array | str | Sight | None:
        """The mask for `N` rows a sequence: `[B, 1, N, S]`, or what says the same in short."""
        view, window = self._view, window_size or self._shape.window
        if view.kv.pool.direct[view.kv.model] is not None:
            return Sight(window)
        if view.exact and not return_array and (window is None or window >= view.limit):
            return None if N == 1 else "causal"
        mask = view.mask(N, window)
        return mask if self._shape.mask_rank == 4 else mx.expand_dims(mask, 1)
