"""Attention over pages and a tail in plain MLX: the reference for every fast version.

Position p of a sequence lies in its pages while p < committed, and at tail slot p - committed after that.
Gathering puts position p at index p, so keys are summed in position order: on the CPU the result is bitwise
that of a contiguous cache, whatever the page size, the batch, or where the tail begins.
"""

from __future__ import annotations

from dataclasses import dataclass

import mlx.core as mx


@dataclass(frozen=True)
class Stored:
    """Where one layer's keys and values of a batch lie.

    Args:
        pages: keys and values, each [n_pages, kv_heads, page_size, dim].
        block_table, committed: as in `GatherRows.of`.
        tail: keys and values, each [B, tail_slots, kv_heads, dim], the rows of this pass included.
        lengths: [B] int32, positions before the rows of this pass.
    """

    pages: tuple[mx.array, mx.array]
    block_table: mx.array
    committed: mx.array
    tail: tuple[mx.array, mx.array]
    lengths: mx.array


def gather_run(pages: mx.array, run: tuple[int, int], tail: mx.array, limit: int) -> mx.array:
    """One sequence whose pages lie side by side: a slice of the pool, then the tail.

    Args:
        pages: [n_pages, heads, page_size, dim], one layer's keys or values.
        run: the first page and how many follow each other, from position 0 on.
        tail: [1, tail_slots, heads, dim]; slot 0 is the first position after the run.
        limit: positions wanted at most.

    Returns:
        [1, heads, S, dim] with S = min(limit, positions held).
    """
    first, count = run
    heads, page_size, dim = pages.shape[1:]
    tail = tail.transpose(0, 2, 1, 3)
    if count == 0:
        return tail[:, :, :limit]
    # Joined page by page, with the tail filled up to whole ones: joined by position, the pages would be copied twice.
    filled = mx.pad(tail[0], [(0, 0), (0, -tail.shape[2] % page_size), (0, 0)])
    paged = pages[first : first + count].transpose(1, 0, 2, 3)
    joined = mx.concatenate([paged, filled.reshape(heads, -1, page_size, dim)], axis=1).reshape(1, heads, -1, dim)
    return joined[:, :, : min(limit, count * page_size + tail.shape[2])]


@dataclass(frozen=True)
class GatherRows:
    """Where a gather finds the pages of a batch and lays each tail: the same for all layers with as many heads.

    Args:
        found: [B, heads, W] int32, rows of a layer's pages seen as [n_pages * heads, page_size, dim].
        laid: [B, heads, tail_slots] int32, rows of the result seen as [B * heads * W * page_size, dim].
    """

    found: mx.array
    laid: mx.array

    @classmethod
    def of(cls, block_table: mx.array, committed: mx.array, slots: int, page_size: int, heads: int) -> GatherRows:
        """The rows of a batch.

        Args:
            block_table: [B, W] int32 page numbers; columns after a sequence's last page name the page of zeros,
                and W leaves room for the tail: W * page_size >= committed + tail_slots.
            committed: [B] int32, positions in pages.
            slots, page_size, heads: of the tail, of the pages, of the layer.
        """
        batch, width = block_table.shape
        head = mx.arange(heads)[:, None]
        matrix = (mx.arange(batch)[:, None, None] * heads + head) * (width * page_size)
        return cls(block_table[:, None] * heads + head, matrix + committed[:, None, None] + mx.arange(slots))


def gather(pages: mx.array, rows: GatherRows, tail: mx.array, limit: int) -> mx.array:
    """A ragged batch: pages through the block table, with each tail laid over its own first free position.

    Args:
        pages: [n_pages, heads, page_size, dim], one layer's keys or values.
        rows: where they lie.
        tail: [B, tail_slots, heads, dim].
        limit: positions wanted at most.

    Returns:
        [B, heads, S, dim] with S = min(limit, W * page_size).
    """
    heads, dim = pages.shape[1], pages.shape[3]
    # Each head's positions must be contiguous, or the matmul copies them once per query head.
    joined = pages.flatten(0, 1)[rows.found].reshape(-1, dim)
    joined[rows.laid] = tail.transpose(0, 2, 1, 3)
    return joined.reshape(tail.shape[0], heads, -1, dim)[:, :, :limit]


def attention_mask(lengths: mx.array, rows: int, keys: int, window: int | None) -> mx.array:
    """Which keys each row sees: row i sits at position length + i and sees positions up to its own.

    Args:
        lengths: [B] int32, positions before the rows.
        rows: M, query rows a sequence.
        keys: S, gathered positions.
        window: positions a row sees at most, its own included; None is all.

    Returns:
        [B, 1, M, S] bool.
    """
    at = (lengths[:, None] + mx.arange(rows)[None])[:, None, :, None]
    position = mx.arange(keys)
    seen = position <= at
    if window is not None:
        seen = seen & (position > at - window)
    return seen


def paged_attention(
    queries: mx.array,
    stored: Stored,
    *,
    scale: float,
    window: int | None = None,
    sinks: mx.array | None = None,
) -> mx.array:
    """The one attention operation over pages and tail, of which the functions above are the parts.

    Args:
        queries: [B, query_heads, M, dim]; row i of a sequence sits at position lengths + i.
        stored: the keys and values of one layer.
        scale: multiplies the scores.
        window: as in `attention_mask`.
        sinks: [query_heads], the attention sinks of models that have them.

    Returns:
        [B, query_heads, M, value_dim].
    """
    heads, page_size = stored.pages[0].shape[1:3]
    rows = GatherRows.of(stored.block_table, stored.committed, stored.tail[0].shape[1], page_size, heads)
    limit = stored.block_table.shape[1] * page_size
    keys, values = (gather(pages, rows, tail, limit) for pages, tail in zip(stored.pages, stored.tail, strict=True))
    mask = attention_mask(stored.lengths, queries.shape[2], keys.shape[2], window)
    return mx.fast.scaled_dot_product_attention(queries, keys, values, scale=scale, mask=mask, sinks=sinks)
