"""The KV memory of a pair: one paged array per layer of the target and of the draft."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import mlx.core as mx

from helix_mlx.kernels.cpu.library import CpuLibrary
from helix_mlx.paging.page_allocator import PageAllocator
from helix_mlx.recurrent.layout import CacheLayout

TARGET, DRAFT = 0, 1
"""The two models of a pair, as the pool numbers them."""


@dataclass(frozen=True)
class LayerShape:
    """The shape of what one layer stores per position.

    `window` is the number of positions a row of this layer sees at most; None is all of them. `mask_rank` is
    the rank of the masks its attention takes: 5 where the model groups its query heads on an axis of their own.
    Of `keys_only` the values are never read; they have one dimension, as MLX ends the process where some scatter none.
    """

    key_heads: int
    key_dim: int
    value_heads: int
    value_dim: int
    dtype: mx.Dtype
    window: int | None = None
    mask_rank: int = 4
    keys_only: bool = False

    @property
    def bytes_per_position(self) -> int:
        """Bytes of keys and values for one position."""
        return (self.key_heads * self.key_dim + self.value_heads * self.value_dim) * self.dtype.size


class PagePool:
    """Keys and values `[n_pages + 1, heads, page_size, dim]` a layer, for both models of a pair.

    A head's positions lie side by side, as attention reads them.

    Page 0 holds zeros. A page is written whole, once for each model, by `write`, and does not change until it is
    freed. Writing is in place when nothing in flight reads the pool: MLX then donates the buffer, and the address of
    each array stays the same until `grow` copies the pages into larger arrays, up to `pages_most` pages.
    `direct[m]` is the library by which the attention of model m reads pages and tail where they lie; None, as it is
    at first, gathers them.

    Args:
        models: the layers of the target, and of the draft where there is one.
        page_size: positions in a page.
        n_pages: pages that can be held at once, to begin with.
        pages_most: pages that it may grow to; None never grows.
        layouts: the cache objects of the models; None is one of keys and values a layer.
        set_aside: bytes beside the pages that recurrent states may take.
    """

    def __init__(
        self,
        models: Sequence[Sequence[LayerShape]],
        page_size: int,
        n_pages: int,
        pages_most: int | None = None,
        layouts: Sequence[CacheLayout] | None = None,
        set_aside: int = 0,
    ) -> None:
        self.page_size = page_size
        self.pages_most = n_pages if pages_most is None else pages_most
        self.allocator = PageAllocator(n_pages)
        self.layers = [list(layers) for layers in models]
        self.has_keys_only = [any(shape.keys_only for shape in layers) for layers in self.layers]
        self.layouts = list(layouts or [CacheLayout.plain(len(layers)) for layers in models])
        self.set_aside = set_aside
        self.state_bytes = sum(layout.state_bytes for layout in self.layouts)
        """Bytes of one sequence's recurrent states, of both models."""
        self.direct: list[CpuLibrary | None] = [None for _ in models]

        def pages(heads: int, dim: int, dtype: mx.Dtype) -> mx.array:
            return mx.zeros((n_pages + 1, heads, page_size, dim), dtype)

        self.keys = [[pages(s.key_heads, s.key_dim, s.dtype) for s in layers] for layers in models]
        self.values = [[pages(s.value_heads, s.value_dim, s.dtype) for s in layers] for layers in models]
        mx.eval(self.keys, self.values)

    @staticmethod
    def bytes_per_page(models: Sequence[Sequence[LayerShape]], page_size: int) -> int:
        """Bytes of one page: `page_size` positions of every layer of both models."""
        return page_size * sum(shape.bytes_per_position for layers in models for shape in layers)

    @property
    def nbytes(self) -> int:
        """Bytes allocated, including the page of zeros."""
        return (self.allocator.pages_total + 1) * self.bytes_per_page(self.layers, self.page_size)

    @property
    def nbytes_most(self) -> int:
        """Maximum bytes, including the page of zeros."""
        return (self.pages_most + 1) * self.bytes_per_page(self.layers, self.page_size)

    def grow(self, pages: int) -> None:
        """Add pages. The caller ensures that nothing in flight reads or writes the pool.

        Block tables stay valid, since no page changes its number. One array is copied after the other, so that
        besides the new pages only one layer's keys or values are held twice at any moment.
        """
        assert 1 <= pages <= self.pages_most - self.allocator.pages_total
        for arrays in (*self.keys, *self.values):
            for layer in range(len(arrays)):
                arrays[layer] = mx.pad(arrays[layer], [(0, pages), (0, 0), (0, 0), (0, 0)])
                mx.eval(arrays[layer])
                mx.clear_cache()  # or MLX keeps the old, smaller array in its cache
        self.allocator.grow(pages)

    def write(
        self, model: int, pages: Sequence[int], layer_keys: Sequence[mx.array], layer_values: Sequence[mx.array]
    ) -> None:
        """Write whole pages of one model, lazily. The caller ensures that nothing in flight reads the pool.

        Pages that the draft has already written are skipped.

        Args:
            model: TARGET or DRAFT.
            pages: N page numbers, all held.
            layer_keys, layer_values: a layer, [N, heads, page_size, dim].
        """
        assert all(self.allocator.ref_count(page) for page in pages)
        if model == DRAFT:
            # Each sequence that shares a page computes it with the draft; only the first writes it.
            fresh = [i for i, page in enumerate(pages) if page not in self.allocator.drafted and page not in pages[:i]]
            self.allocator.drafted.update(pages)
            if not fresh:
                return
            if len(fresh) < len(pages):
                pages, rows = [pages[i] for i in fresh], mx.array(fresh)
                layer_keys, layer_values = ([array[rows] for array in arrays] for arrays in (layer_keys, layer_values))
        first, count = pages[0], len(pages)
        together = list(pages) == list(range(first, first + count))
        where: slice | mx.array = slice(first, first + count) if together else mx.array(list(pages))
        for arrays, new in ((self.keys[model], layer_keys), (self.values[model], layer_values)):
            for array, filled in zip(arrays, new, strict=True):
                array[where] = filled
