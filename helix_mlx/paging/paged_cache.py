"""The paged store behind mlx-lm's cache protocol, as models see it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx

from helix_mlx.kernels.cpu.attention import PagedKVRef, WindowMask
from helix_mlx.kernels.device import on_cpu
from helix_mlx.kernels.paged_attention import GatherRows, Stored, attention_mask, gather, gather_run
from helix_mlx.paging.block_table import BlockTable
from helix_mlx.paging.page_allocator import ZERO_PAGE
from helix_mlx.paging.page_pool import PagePool
from helix_mlx.paging.tail import Tail
from helix_mlx.recurrent.layout import CacheSlot, KVSlot, StateSlot
from helix_mlx.recurrent.states import RecurrentStates


@dataclass(frozen=True)
class PageLayout:
    """Where a batch's pages are.

    Args:
        block_table: [B, W] int32 page numbers, padded with the page of zeros, with room for the tail.
        committed: [B] int32, positions in pages.
        run: the first page and the number of pages, where one sequence's pages lie side by side; else None.
        room: W * page_size, positions that a gather through the table gives.
    """

    block_table: mx.array
    committed: mx.array
    run: tuple[int, int] | None
    room: int


class PagedKV:
    """The keys and values of a batch of sequences, for one model: their pages and their tail.

    Args:
        pool: where the pages lie.
        model: TARGET or DRAFT.
        tables: one block table a sequence, shared with the other model.
        tail: the positions in no page yet.
        committed: positions in pages, one count a sequence, each a multiple of the page size.
        states: what the model's recurrent layers keep of the verified positions; None where it has none.
    """

    def __init__(
        self,
        pool: PagePool,
        model: int,
        tables: Sequence[BlockTable],
        tail: Tail,
        committed: Sequence[int],
        states: RecurrentStates | None = None,
    ) -> None:
        self.pool = pool
        self.model = model
        self.tables = list(tables)
        self.tail = tail
        self.committed = list(committed)
        self.states = states
        self._layout: PageLayout | None = None
        self._gather_rows: dict[int, GatherRows] = {}

    @classmethod
    def empty(cls, pool: PagePool, model: int, table: BlockTable, slots: int) -> PagedKV:
        """One sequence with nothing in it."""
        shapes = pool.layouts[model].states
        states = RecurrentStates.empty(shapes) if shapes else None
        return cls(pool, model, [table], Tail.zeros(pool.layers[model], 1, slots), [0], states)

    @classmethod
    def concatenate(cls, parts: Sequence[PagedKV]) -> PagedKV:
        """Several batches joined into one."""
        first = parts[0]
        tables = [table for part in parts for table in part.tables]
        committed = [count for part in parts for count in part.committed]
        tail = first.tail if len(parts) == 1 else Tail.concatenate([part.tail for part in parts])
        states = [part.states for part in parts if part.states is not None]
        joined = RecurrentStates.concatenate(states) if states else None
        return cls(first.pool, first.model, tables, tail, committed, joined)

    def take(self, rows: Sequence[int]) -> PagedKV:
        """The sequences with the indices `rows`, in that order."""
        if list(rows) == list(range(len(self.tables))):
            return self
        tables = [self.tables[b] for b in rows]
        states = None if self.states is None else self.states.take(rows)
        return PagedKV(self.pool, self.model, tables, self.tail.take(rows), [self.committed[b] for b in rows], states)

    def has_full_page(self, lengths: Sequence[int]) -> bool:
        """Whether any sequence has enough verified positions in its tail to fill a page."""
        size = self.pool.page_size
        return any(n - done >= size for n, done in zip(lengths, self.committed, strict=True))

    def take_whole_pages(self, lengths: Sequence[int]) -> tuple[list[int], list[int]]:
        """The full pages among the first `lengths[b]` positions of each tail: how many a sequence, and which pages
        of the pool they go to.

        Raises:
            MemoryBudgetError: no page is free.
        """
        size = self.pool.page_size
        counts = [max(0, (n - done) // size) for n, done in zip(lengths, self.committed, strict=True)]
        pages: list[int] = []
        for table, count, done in zip(self.tables, counts, self.committed, strict=True):
            table.grow(done // size + count)
            pages += table.pages[done // size : done // size + count]
        return counts, pages

    def fork(self, table: BlockTable) -> PagedKV:
        """The one sequence here once more, over pages that it shares; each writes a tail of its own from here on."""
        states = None if self.states is None else self.states.copy()
        return PagedKV(self.pool, self.model, [table], self.tail.fork(), self.committed, states)

    def found(self, pages: int) -> None:
        """Mark the first `pages` pages of the single sequence as already filled.

        The tail starts empty after them.
        """
        assert len(self.tables) == 1
        assert len(self.tables[0].pages) >= pages >= self.committed[0] // self.pool.page_size
        self.committed = [pages * self.pool.page_size]
        self.forget_layout()

    @property
    def arrays(self) -> list[mx.array]:
        """What a pass leaves behind, for `mx.eval`: the tail, and the recurrent states."""
        return [*self.tail.keys, *self.tail.values, *([] if self.states is None else self.states.arrays)]

    def advance(self, kept: mx.array, limits: mx.array | None = None) -> RecurrentStates | None:
        """Let the recurrent states go on by the rows that were kept: see `RecurrentStates.advance`.

        Keys and values need no such thing: a shorter length is all of it.
        """
        return None if self.states is None else self.states.advance(kept, limits)

    def caches(self, offset: mx.array, limit: int, exact: bool = False, record: bool = False) -> list[Any]:
        """The model's cache objects, for one forward pass that writes from position `offset` on: a `PagedCache` or a
        `RecurrentCache` a layer, or a tuple of them where a layer has several.

        Args:
            offset: [B] int32, positions before the rows of this pass.
            limit: a bound, known to the host, on the positions held after the pass.
            exact: the bound is met by every sequence, so masks need not be spelt out.
            record: some of its rows may be taken back: `advance` tells which are kept.
        """
        view = PagedView(self, offset, limit, exact)
        states = [] if self.states is None else self.states.caches(record)
        shapes = self.pool.layers[self.model]

        def made(slot: CacheSlot) -> Any:
            if isinstance(slot, KVSlot):
                return (KeysCache if shapes[slot.layer].keys_only else PagedCache)(view, slot.layer)
            if isinstance(slot, StateSlot):
                return states[slot.layer]
            return tuple(made(part) for part in slot.parts)

        return [made(slot) for slot in self.pool.layouts[self.model].slots]

    def layout(self) -> PageLayout:
        """Where the sequences' pages are, for a forward pass; reused until pages are added or removed."""
        if self._layout is None:
            size = self.pool.page_size
            counts = [done // size for done in self.committed]
            width = max(counts) - -self.tail.slots // size
            rows = [
                table.pages[:count] + [ZERO_PAGE] * (width - count)
                for table, count in zip(self.tables, counts, strict=True)
            ]
            run = None
            if len(rows) == 1 and self.tables[0].is_run(counts[0]):
                run = rows[0][0], counts[0]
            self._layout = PageLayout(mx.array(rows, mx.int32), mx.array(self.committed, mx.int32), run, width * size)
        return self._layout

    def gather_rows(self, heads: int) -> GatherRows:
        """Gather indices for layers with this many heads; reused until pages are added or removed."""
        if heads not in self._gather_rows:
            at, size = self.layout(), self.pool.page_size
            self._gather_rows[heads] = GatherRows.of(at.block_table, at.committed, self.tail.slots, size, heads)
        return self._gather_rows[heads]

    def resize_tail(self, slots: int) -> None:
        """Give the tail so many slots; what a pass knows of the room behind the pages is made anew."""
        self.tail = self.tail.resized(slots)
        self.forget_layout()

    def forget_layout(self) -> None:
        """Pages were added or removed."""
        self._layout = None
        self._gather_rows.clear()


def commit(kvs: Sequence[PagedKV], lengths: Sequence[Sequence[int]]) -> int:
    """Move whole pages of verified positions from the tails to the pool, in place.

    The device must be idle (the caller has just waited for it), or MLX copies the pool.

    Args:
        kvs: the keys and values of one model, or of both.
        lengths: for each of them, the verified positions of each sequence.

    Returns:
        Pages written; a page counts once for each model.

    Raises:
        MemoryBudgetError: no page is free; nothing has moved then.
    """
    moves = [(kv, *kv.take_whole_pages(verified)) for kv, verified in zip(kvs, lengths, strict=True)]
    written: list[list[mx.array]] = []
    for kv, counts, pages in moves:
        if not pages:
            continue
        size, model = kv.pool.page_size, kv.model
        kv.pool.write(model, pages, *kv.tail.whole_pages(counts, size))
        kv.tail = kv.tail.shifted([count * size for count in counts])
        kv.committed = [done + count * size for done, count in zip(kv.committed, counts, strict=True)]
        kv.forget_layout()
        written += [kv.pool.keys[model], kv.pool.values[model], kv.tail.keys, kv.tail.values]
    if written:
        mx.async_eval(*written)
    return sum(len(pages) for _, _, pages in moves)


class PagedView:
    """What all layers of a forward pass share: where the batch is stored and where new rows go."""

    def __init__(self, kv: PagedKV, offset: mx.array, limit: int, exact: bool) -> None:
        self.kv = kv
        self.offset = offset
        self.limit = limit
        self.exact = exact
        self.layout = kv.layout()
        self.eager = on_cpu()
        self._places: dict[int, mx.array] = {}
        assert limit <= max(kv.committed) + kv.tail.slots, "the rows do not fit the tail"
        self.masks: dict[tuple[int, int | None], mx.array] = {}

    @property
    def keys_held(self) -> int:
        """S, the positions that `fetch` returns."""
        # The table of a run, too, has room for its tail.
        return min(self.limit, self.layout.room)

    def places(self, rows: int) -> mx.array:
        """Where `rows` rows per sequence go in the tail; made once per pass."""
        if rows not in self._places:
            self._places[rows] = self.kv.tail.places(self.offset - self.layout.committed, rows)
        return self._places[rows]

    def fetch(self, pages: mx.array, tail: mx.array) -> mx.array:
        """[B, heads, S, dim], position p at index p."""
        layout = self.layout
        if layout.run is not None:
            return gather_run(pages, layout.run, tail, self.limit)
        return gather(pages, self.kv.gather_rows(pages.shape[1]), tail, self.limit)

    def mask(self, rows: int, window: int | None) -> mx.array:
        """[B, 1, rows, S] bool, made once per pass and window."""
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

    def update_and_fetch(
        self, keys: mx.array, values: mx.array
    ) -> tuple[mx.array, mx.array] | tuple[PagedKVRef, PagedKVRef]:
        """Write this pass's rows into the tail and return all positions.

        Args:
            keys, values: [B, heads, M, dim].

        Returns:
            Keys and values, `[B, heads, S, dim]` each; or, where the model's attention reads pages and tail where
            they lie, their place, twice.
        """
        view, layer = self._view, self._layer
        kv = view.kv
        if view.eager and layer:
            # A CPU can compute the first layers while the host builds the rest. A GPU would only get more, smaller
            # command buffers.
            mx.async_eval(keys, values)
        kv.tail.write(layer, view.places(keys.shape[2]), keys, values)
        pages = kv.pool.keys[kv.model][layer], kv.pool.values[kv.model][layer]
        tail = kv.tail.keys[layer], kv.tail.values[layer]
        library = kv.pool.direct[kv.model]
        if library is not None:
            stored = Stored(pages, view.layout.block_table, view.layout.committed, tail, view.offset)
            return PagedKVRef(stored, library), PagedKVRef(stored, library)
        return view.fetch(pages[0], tail[0]), view.fetch(pages[1], tail[1])

    def keys_and_values(self) -> tuple[mx.array, mx.array]:
        """What `update_and_fetch` has returned, once more, for layers that share a cache: `[B, heads, S, dim]` each."""
        return self.keys, self.values

    @property
    def keys(self) -> mx.array:
        """The keys of all positions, [B, heads, S, dim].

        Some models write them back, only to have them computed with something else. That is Helix's own affair, so what
        is written is dropped.
        """
        kv = self._view.kv
        return self._view.fetch(kv.pool.keys[kv.model][self._layer], kv.tail.keys[self._layer])

    @keys.setter
    def keys(self, _: mx.array) -> None: ...

    @property
    def values(self) -> mx.array:
        """The values, as `keys`."""
        kv = self._view.kv
        return self._view.fetch(kv.pool.values[kv.model][self._layer], kv.tail.values[self._layer])

    @values.setter
    def values(self, _: mx.array) -> None: ...

    def make_mask(
        self,
        N: int,  # noqa: N803
        window_size: int | None = None,
        return_array: bool = False,
    ) -> mx.array | str | WindowMask | None:
        """The mask for `N` rows a sequence: `[B, 1, N, S]`, or what says the same in short."""
        view, window = self._view, window_size or self._shape.window
        if view.kv.pool.direct[view.kv.model] is not None:
            return WindowMask(window)
        if view.exact and not return_array and (window is None or window >= view.limit):
            return None if N == 1 else "causal"
        mask = view.mask(N, window)
        return mask if self._shape.mask_rank == 4 else mx.expand_dims(mask, 1)


class KeysCache(PagedCache):
    """A layer of which the keys alone are read: its values are not stored."""

    def update_and_fetch(
        self, keys: mx.array, values: mx.array
    ) -> tuple[mx.array, mx.array] | tuple[PagedKVRef, PagedKVRef]:
        """As `PagedCache`, with other values, [B, heads, S, 1]."""
        return super().update_and_fetch(keys, keys[..., :1])
